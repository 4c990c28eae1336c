// A histogram as the payload of its record.
//
// Format, little-endian: the header; then, for explicit limits, bucket_count float64; then the
// counts: bucket_count float64 for kDoubleCounts, else varints (LEB128), in which a 0 is followed
// by the number of zeros it stands for. Buckets are those of TensorBoard's HistogramProto: bucket i
// reaches from limit i - 1, or min, to limit i.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tracelet/histogram/bin_edges.h"
#include "tracelet/histogram/counter.h"

namespace tracelet {

struct HistogramHeader {
  // Of the finite values, `num` of them; all 0 when there are none.
  double min;
  double max;
  double sum;
  double sum_squares;
  double num;  // not an integer only when the caller gave it so
  std::uint64_t nan_count;
  std::uint64_t inf_count;
  std::uint32_t bucket_count;
  std::uint16_t
      first_edge;  // without kExplicitLimits: limit i is TensorBoard's edge first_edge + i
  std::uint16_t flags;
};
enum HistogramFlags : std::uint16_t {
  kExplicitLimits = 1,
  kDoubleCounts = 2,
  // Still being counted on a device: the payload is a header without buckets, whose nan_count is
  // the ticket under which the result is waited for, and room for the largest result.
  kParked = 4,
};
static_assert(sizeof(HistogramHeader) == 64);

// The payload of a histogram that is still being counted.
void append_parked_histogram_payload(std::uint64_t ticket, std::size_t bin_count, std::string& out);

// Appends the payload of counted values to `out`: the buckets that
// torch.utils.tensorboard.summary.make_histogram makes of the same counts. `max_bins` merges
// neighbours as it does there; 0: all bins. No bucket at all when every bin is empty. Counts
// outside of `occupied` must be 0.
void append_histogram_payload(const Moments& moments, const BinEdges& edges,
                              std::span<const std::uint64_t> counts, std::size_t max_bins,
                              std::string& out, BinRange occupied = kAllBins);
// Appends the payload of buckets that the caller has counted; `limits` and `counts` are of one
// size.
void append_raw_histogram_payload(const HistogramHeader& moments, std::span<const double> limits,
                                  std::span<const double> counts, std::string& out);

// A payload that was read. Reused for one after the other, it allocates nothing.
struct HistogramBuckets {
  HistogramHeader header;
  std::vector<double> limits;
  std::vector<double> counts;

  // False for bytes that are no histogram, or one whose counts never came from its device.
  bool read(std::span<const std::byte> payload);
};

}  // namespace tracelet
