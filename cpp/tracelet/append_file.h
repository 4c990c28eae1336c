// A file that only grows, by whole pieces: a piece that could not be written whole is taken back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tracelet {

// Appends the whole content of a file. Returns 0, or why it can't be read (an errno; ENODATA for a
// file that became shorter meanwhile), and then a part may be there.
int append_content(const std::string& path, std::string& out);

class AppendFile {
 public:
  // Opens `path` for appending and creates it if need be. Throws std::system_error.
  explicit AppendFile(const std::string& path);
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&&) = delete;
  AppendFile(const AppendFile&) = delete;
  ~AppendFile();

  // Appends `piece` in one write where the system takes it in one. When it can't be written whole,
  // takes back what of it was, and throws std::system_error: the caller may try again. What can't
  // be taken back either stays the file's torn end: nothing is appended behind it before it is
  // gone. Returns where the piece ends, in bytes; another process may have appended behind it.
  std::uint64_t append(std::string_view piece);
  // As `append`, for a file to which other processes append lines of JSON as well, with or without
  // this class: one of them may die in the middle of a line, and this one may die at any
  // instruction. No line of anybody's is lost by that: what is torn before this line becomes
  // blanks, which are allowed there, and nothing is ever cut off, because another writer's line may
  // stand behind it by then. A lock would do it, too, and wait for a writer that is stopped.
  std::uint64_t append_line(std::string_view line);
  // Waits a moment while the last byte is not a line end, so that a line does not land inside that
  // of a writer that needs several writes for one.
  void wait_for_whole_line() const;

  bool is_empty() const;
  // Whether what is appended is to be found under `path` still.
  bool is_named() const;
  const std::string& path() const { return path_; }

 private:
  int take_back_torn();
  void blank_torn_before(std::uint64_t start_bytes, std::size_t line_bytes);

  std::string path_;
  int fd_;
  // A part of a piece that could not be written whole and is in the file yet.
  std::int64_t torn_start_bytes_ = 0;
  std::size_t torn_bytes_ = 0;
  bool is_shared_ = false;  // by `append_line`
};

}  // namespace tracelet
