// What the tests share: temporary files, seeds, child processes, limits.
#pragma once

#include <signal.h>
#include <stdlib.h>
#if defined(__linux__)
#include <sys/prctl.h>
#endif
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <random>
#include <string>
#include <string_view>

#include "tracelet/record.h"

namespace tracelet::testing {

#if defined(__SANITIZE_THREAD__)
inline constexpr bool kThreadSanitizer = true;
#else
inline constexpr bool kThreadSanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kAddressSanitizer = true;
#else
inline constexpr bool kAddressSanitizer = false;
#endif

#if defined(TRACELET_EMULATED)
inline constexpr bool kEmulated = true;  // by qemu, for a processor that is not this one
#else
inline constexpr bool kEmulated = false;
#endif

// How often a property is tried: fewer times under a sanitizer or an emulator, which are several
// times slower.
constexpr int repeated(int times) {
  return kThreadSanitizer || kEmulated ? times / 5 : kAddressSanitizer ? times / 2 : times;
}

// The time within which something that takes microseconds has surely happened.
inline constexpr std::chrono::seconds kVeryLong(10);

// Another seed each run; TRACELET_TEST_SEED repeats one. Tests name theirs by INFO.
inline std::uint64_t fresh_seed() {
  const char* wanted = std::getenv("TRACELET_TEST_SEED");
  return wanted != nullptr ? std::strtoull(wanted, nullptr, 10) : std::random_device{}();
}

class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "tracelet_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::filesystem::filesystem_error("mkdtemp", {});
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  std::string file(std::string_view name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

inline void write_bytes(const std::string& path, std::string_view bytes) {
  std::ofstream stream(path, std::ios::binary | std::ios::trunc);
  stream.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// A forked child that runs `body` and exits with what it returns, without destructors or atexit.
inline pid_t start_child(const std::function<int()>& body) {
  const pid_t pid = fork();
  if (pid != 0) return pid;
#if defined(__linux__)
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that was ended leaves no child behind
#endif
  for (const int number : {SIGSEGV, SIGBUS, SIGABRT, SIGTERM}) signal(number, SIG_DFL);
  try {
    _exit(body());
  } catch (const std::exception&) {
    _exit(99);
  }
}

// The child's exit status, or the negative number of the signal that ended it.
inline int end_of_child(pid_t pid) {
  int status = 0;
  if (waitpid(pid, &status, 0) != pid) return 98;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// While it lives, no file of this process grows beyond `bytes`: what a full disk looks like.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(std::size_t bytes) : old_handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_limit_);
    rlimit limit = old_limit_;
    limit.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_limit_);
    signal(SIGXFSZ, old_handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  void (*old_handler_)(int);
  rlimit old_limit_{};
};

// A scalar with a tag of writer 1 at a second and a half past the epoch.
inline Record scalar(std::uint64_t sequence, std::uint32_t tag_id, double value,
                     std::int64_t step = 0) {
  Record record{};
  record.sequence = sequence;
  record.value = value;
  record.step = step;
  record.wall_time_s = 1.5;
  record.tag_id = tag_id;
  record.writer_id = 1;
  record.kind = RecordKind::kScalar;
  return record;
}

template <typename Records>
RecordSpan span_of(const Records& records) {
  return {std::data(records), std::size(records)};
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace tracelet::testing
