// A file that a dead process left, read piece by piece: never mapped, so that one which shrinks
// meanwhile is an error and no SIGBUS, and never written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace tracelet {

// What lies on disk is not what it should be; the message names the file and says what to do.
class StoredFileError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class StoredFile {
 public:
  // Opens a regular file of this user's; follows no link, waits for no FIFO. Throws
  // std::system_error.
  static StoredFile open(const std::string& path);
  // A file's content that is in memory already, for fuzzers and tests.
  static StoredFile of_bytes(std::string name, std::string bytes);

  StoredFile(StoredFile&& other) noexcept;
  StoredFile& operator=(StoredFile&&) = delete;
  StoredFile(const StoredFile&) = delete;
  ~StoredFile();

  const std::string& path() const { return path_; }
  // When it was opened.
  std::uint64_t size_bytes() const { return size_bytes_; }
  // Reads so many bytes from `offset` on; false when there are not so many.
  bool read(std::uint64_t offset, void* out, std::size_t size_bytes) const noexcept;
  // All of it. Throws StoredFileError when it can't be read, or has more than `most_bytes`.
  std::string content(std::uint64_t most_bytes) const;

 private:
  StoredFile(std::string path, int fd, std::string bytes, std::uint64_t size_bytes);

  std::string path_;
  int fd_;             // -1: `bytes_`
  std::string bytes_;  //
  std::uint64_t size_bytes_;
};

}  // namespace tracelet
