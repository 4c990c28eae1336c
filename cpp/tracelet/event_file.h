// TensorBoard event files: points encoded and appended.
//
// A file is a sequence of TFRecords, each: length (u64), masked CRC-32C of the length, data, masked
// CRC-32C of the data. The data are an Event protobuf (tensorboard/compat/proto/event.proto,
// summary.proto). https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "tracelet/histogram/payload.h"
#include "tracelet/record.h"

namespace tracelet {

// Appends the TFRecord of one scalar record to `out`. `summary_prefix` comes from
// scalar_summary_prefix(tag) and is used for plain scalars only.
void append_scalar_event(const Record& record, std::string_view tag,
                         std::string_view summary_prefix, std::string& out);
// The bytes of a plain scalar's summary that its tag fixes: all but the value, which ends it.
std::string scalar_summary_prefix(std::string_view tag);
// Appends the TFRecord of a histogram record to `out`.
void append_histogram_event(const Record& record, std::string_view tag,
                            const HistogramBuckets& buckets, std::string& out);
// Appends the TFRecord of an Event protobuf, given as its bytes.
void append_ready_event(std::span<const std::byte> event, std::string& out);
// The same for an Event that is a file's content; false, and nothing appended, when there is no
// such file, or none that may be read. Throws std::system_error, and nothing is appended, for what
// may pass: no descriptor left, no memory, an error of the device.
bool append_event_from_file(const std::string& path, std::string& out);
// The record every event file begins with: the format's version and who wrote it.
std::string version_event(double wall_time_s);

}  // namespace tracelet
