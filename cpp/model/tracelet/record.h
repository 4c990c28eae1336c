// In the place of cpp/tracelet/record.h for the model checker: the same names, whose plain fields
// tell it of each read and write, so that one that no acquire or release orders is an error.
#pragma once

#include "model.h"

namespace tracelet {

enum class RecordKind : std::uint16_t { kSkipped = 0, kScalar = 1 };
inline constexpr std::uint32_t kNoWriter = 0;

struct Record {
  std::model_atomic<std::uint64_t> sequence;
  model::Plain<double> value;
  model::Plain<std::int64_t> step;
  model::Plain<double> wall_time_s;
  model::Plain<std::uint32_t> tag_id;
  model::Plain<std::uint32_t> writer_id;
  model::Plain<RecordKind> kind;
  model::Plain<std::uint16_t> flags;
  model::Plain<std::uint32_t> producer_pid;
  model::Plain<std::uint64_t> payload_offset;
  model::Plain<std::uint64_t> payload_size;
};

struct Point {
  double value = 0;
  std::int64_t step = 0;
  double wall_time_s = 0;
  std::uint32_t tag_id = 0;
  std::uint32_t writer_id = kNoWriter;
  RecordKind kind = RecordKind::kScalar;
  std::uint16_t flags = 0;
};

struct RecordSpan {
  const Record* data = nullptr;
  std::size_t size = 0;
};

struct PayloadSpan {
  const std::byte* data = nullptr;
  std::size_t size = 0;
};

}  // namespace tracelet
