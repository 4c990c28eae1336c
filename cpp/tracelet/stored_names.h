// The strings behind the ids of a dead process' records, as far as they can be trusted: out of the
// journal's `names.bin`, out of the ring's tag table, or of both.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "tracelet/names.h"
#include "tracelet/stored_file.h"

namespace tracelet {

// Not thread-safe while it is changed; then for any thread. Bounded: it holds no more than the
// bytes it was read from.
class StoredNames final : public Names {
 public:
  // Of a file `names.bin`, whose blocks have checksums: a damaged one costs its own strings, whose
  // ids are unknown then. A missing file has no strings. Throws std::system_error, and
  // StoredFileError for a file of a newer version.
  static StoredNames read(const std::string& path);
  static StoredNames of_names_file(const StoredFile& file);
  // Of a ring's tag table, which has no checksums: strings count up to the first that makes no
  // sense. `used_bytes` may be beyond the table's end.
  static StoredNames of_tag_table(std::string_view table, std::uint64_t used_bytes);

  // Empty for an id that is not known.
  std::string_view text(std::uint32_t id) override;
  bool knows(std::uint32_t id) const { return texts_.contains(id); }
  // The greatest id that is known. Not all before it need to be.
  std::uint32_t size() override { return last_; }

  void add(std::uint32_t id, std::string_view text);
  // Takes what `other` knows and this does not.
  void add_missing(const StoredNames& other);

  // What was wrong with the bytes, or "". A torn end, of a process that was killed, is no damage.
  const std::string& problem() const { return problem_; }
  // Of a names file: where the last whole block ends.
  std::uint64_t whole_bytes() const { return whole_bytes_; }

 private:
  std::unordered_map<std::uint32_t, std::string> texts_;
  std::uint32_t last_ = 0;
  std::string problem_;
  std::uint64_t whole_bytes_ = 0;
};

}  // namespace tracelet
