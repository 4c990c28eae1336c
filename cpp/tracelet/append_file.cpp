#include "tracelet/append_file.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>

#include "tracelet/platform.h"

namespace tracelet {

namespace {

constexpr std::size_t kBlock = 1 << 16;

}  // namespace

int append_content(const std::string& path, std::string& out) {
  const int fd = open_to_read(path);
  if (fd < 0) return errno;
  const std::size_t start = out.size();
  const std::int64_t file_bytes = file_size_bytes(fd);
  int error = file_bytes < 0 ? EIO : 0;
  if (error == 0) {
    const std::size_t size = start + static_cast<std::size_t>(file_bytes);
    out.reserve(size + sizeof(std::uint32_t));  // what follows: a checksum, without another copy
    out.resize(size);
  }
  for (std::size_t done = start; error == 0 && done < out.size();) {
    const std::int64_t count =
        read_at(fd, out.data() + done, out.size() - done, static_cast<std::int64_t>(done - start));
    if (count < 0) error = errno;
    if (count == 0) error = ENODATA;
    done += count > 0 ? static_cast<std::size_t>(count) : 0;
  }
  close_file(fd);
  return error;
}

AppendFile::AppendFile(const std::string& path) : path_(path), fd_(open_to_append(path)) {
  if (fd_ < 0) throw std::system_error(errno, std::generic_category(), "cannot open " + path);
}

AppendFile::AppendFile(AppendFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      torn_start_bytes_(other.torn_start_bytes_),
      torn_bytes_(other.torn_bytes_),
      is_shared_(other.is_shared_) {}

AppendFile::~AppendFile() {
  if (fd_ >= 0) close_file(fd_);
}

std::uint64_t AppendFile::append(std::string_view piece) {
  if (const int error = take_back_torn(); error != 0) {
    throw std::system_error(error, std::generic_category(),
                            "cannot take a torn piece back from " + path_);
  }
  if (piece.empty()) return static_cast<std::uint64_t>(file_size_bytes(fd_));
  std::size_t written_bytes;
  const int error = write_all(fd_, piece.data(), piece.size(), &written_bytes);
  const std::int64_t end = end_of_last_write(fd_);
  if (error == 0) return static_cast<std::uint64_t>(end < 0 ? file_size_bytes(fd_) : end);
  torn_bytes_ = end < 0 ? 0 : written_bytes;
  torn_start_bytes_ = end - static_cast<std::int64_t>(written_bytes);
  take_back_torn();  // what fails now is tried again before the next piece
  throw std::system_error(error, std::generic_category(), "cannot write to " + path_);
}

std::uint64_t AppendFile::append_line(std::string_view line) {
  is_shared_ = true;
  if (line.empty()) return append(line);
  wait_for_whole_line();
  const std::uint64_t end = append(line);
  blank_torn_before(end - line.size(), line.size());
  return end;
}

// Looked at when the line is there: before that, another writer may die any time until it is. So
// exactly one writer, whose line it is, finds the torn piece. Should it die right here, its line is
// no JSON, and `tracelet sync` appends what is in no line.
void AppendFile::blank_torn_before(std::uint64_t start_bytes, std::size_t line_bytes) {
  std::string block;
  std::uint64_t torn_start = start_bytes;
  for (bool is_found = false; torn_start > 0 && !is_found;) {
    // The first byte alone: it is a line end but for a death.
    const std::size_t size =
        torn_start == start_bytes ? 1 : std::min<std::uint64_t>(torn_start, kBlock);
    block.resize(size);
    if (read_at(fd_, block.data(), size, static_cast<std::int64_t>(torn_start - size)) !=
        static_cast<std::int64_t>(size)) {
      return;  // somebody has cut the file
    }
    const std::size_t line_end = block.rfind('\n');
    is_found = line_end != std::string::npos;
    torn_start -= is_found ? size - line_end - 1 : size;
  }
  if (torn_start == start_bytes) return;
  const auto torn_bytes = static_cast<std::size_t>(start_bytes - torn_start);
  const int error = blank_out(path_, static_cast<std::int64_t>(torn_start), torn_bytes);
  if (error == 0) return;
  // This line can't be read: it goes with the torn piece, and the caller tries again.
  torn_start_bytes_ = static_cast<std::int64_t>(torn_start);
  torn_bytes_ = torn_bytes + line_bytes;
  throw std::system_error(error, std::generic_category(), "cannot mend " + path_);
}

// Cut off where it is the file's end and nobody else writes to it. Else another writer's line may
// stand behind it at any time, and go with it; blanks before a line of JSON do no harm.
int AppendFile::take_back_torn() {
  if (torn_bytes_ == 0) return 0;
  const std::int64_t torn_end = torn_start_bytes_ + static_cast<std::int64_t>(torn_bytes_);
  const std::int64_t size_bytes = file_size_bytes(fd_);
  if (size_bytes < 0) return EIO;
  int error = 0;
  if (size_bytes == torn_end && !is_shared_) {
    error = truncate_file(fd_, torn_start_bytes_);
  } else if (size_bytes >= torn_end) {
    error = blank_out(path_, torn_start_bytes_, torn_bytes_);
  }  // else somebody has cut the file
  if (error == 0) torn_bytes_ = 0;
  return error;
}

bool AppendFile::is_empty() const { return file_size_bytes(fd_) == 0; }

bool AppendFile::is_named() const { return tracelet::is_named(fd_, path_); }

void AppendFile::wait_for_whole_line() const {
  for (int tries = 0; tries < 500; ++tries) {
    const std::int64_t size = file_size_bytes(fd_);
    char last;
    if (size <= 0) return;
    if (read_at(fd_, &last, 1, size - 1) != 1 || last == '\n' || last == ' ') return;
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

}  // namespace tracelet
