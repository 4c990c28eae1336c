// What the fuzz targets share: each is a libFuzzer target over one kind of file that a dead process
// leaves, and ends with an abort when what came out of the reader breaks its promise.
#pragma once

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "tracelet/fold.h"
#include "tracelet/json_lines.h"
#include "tracelet/record.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace tracelet::fuzz {

inline void require(bool holds, const char* promise) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", promise);
  std::abort();
}

inline std::string bytes_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// For readers that take a path: one file a process, in the folder that .ci/fuzz makes and removes.
inline const std::string& file_with(const std::uint8_t* data, std::size_t size) {
  static const std::string path = [] {
    const char* folder = std::getenv("TRACELET_FUZZ_FOLDER");
    return std::string(folder != nullptr ? folder : ".") + "/input-" + std::to_string(getpid());
  }();
  std::FILE* file = std::fopen(path.c_str(), "wb");
  require(file != nullptr && std::fwrite(data, 1, size, file) == size, "the file can be written");
  std::fclose(file);
  return path;
}

// Gives checked records to all that believes them.
inline void use(RecordSpan records, PayloadSpan payloads) {
  Fold fold;
  for (const std::uint32_t id : fold.undefined_tags(records)) fold.define(id, {.every_steps = 10});
  std::vector<Record> folded;
  fold.apply(records, folded);
  fold.flush(folded);
  JsonLinesEncoder encoder("\"task\"");
  for (const Record& record : encoder.undefined_series(records)) {
    encoder.define(record.writer_id, record.tag_id, record.kind, "\"m\"", "\"v\"");
  }
  std::string lines;
  encoder.encode_lines(records, payloads, 1 << 20, lines);
}

}  // namespace tracelet::fuzz
