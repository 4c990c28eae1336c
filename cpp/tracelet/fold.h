// Thins a flood before it is shipped: the points of a tag that fall into one window become one
// (mean, last) or two (min and max). Tags without a rule pass through, and so do histograms.
#pragma once

#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "tracelet/record.h"

namespace tracelet {

enum class Reduce : std::uint8_t { kMean, kLast, kMinMax };

// One of the two window lengths is set; the other is 0.
struct FoldRule {
  Reduce reduce = Reduce::kMean;
  std::int64_t every_steps = 0;  // windows [k·n, (k+1)·n) of steps
  double every_s = 0;            // windows of wall time, likewise
};

// Not thread-safe: one thread at a time.
class Fold {
 public:
  // Gives a tag its rule; a tag defined without one passes through.
  void define(std::uint32_t tag_id) { define(tag_id, FoldRule{}); }
  void define(std::uint32_t tag_id, FoldRule rule);
  // The tags in `records` that are not defined yet, each once.
  std::vector<std::uint32_t> undefined_tags(RecordSpan records) const;

  // Appends to `out` what leaves the fold when `records` enter it: points of tags without a rule,
  // points that are not finite (they are never averaged away), and the windows that end. A window
  // ends when a point of its series falls into another one. A mean stands at the step and wall time
  // of its window's last point.
  void apply(RecordSpan records, std::vector<Record>& out);
  // Appends the windows still open and closes them.
  void flush(std::vector<Record>& out);
  // How many points of the closed windows stand for others: absorbed less emitted.
  std::uint64_t folded() const { return folded_; }
  // How many points the open windows hold.
  std::uint64_t held() const { return held_; }

 private:
  struct Window {
    std::int64_t number = 0;
    std::uint64_t count = 0;  // 0: none is open
    double mean = 0;          // running: a sum of large values could overflow
    Record least{};
    Record greatest{};
    Record last{};
  };

  void close(const FoldRule& rule, Window& window, std::vector<Record>& out);

  std::vector<FoldRule> rules_;                        // by tag
  std::vector<bool> defined_;                          // by tag
  std::unordered_map<std::uint64_t, Window> windows_;  // by writer and tag
  std::uint64_t folded_ = 0;
  std::uint64_t held_ = 0;
};

}  // namespace tracelet
