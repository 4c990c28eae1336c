#include "tracelet/fold.h"

#include <algorithm>
#include <cmath>

#include "tracelet/names.h"

namespace tracelet {
namespace {

bool folds(const FoldRule& rule) { return rule.every_steps > 0 || rule.every_s > 0; }

std::int64_t window_number(const FoldRule& rule, const Record& record) {
  if (rule.every_steps > 0) {
    const std::int64_t quotient = record.step / rule.every_steps;
    const bool rounds_up = record.step % rule.every_steps < 0;
    return rounds_up ? quotient - 1 : quotient;
  }
  return static_cast<std::int64_t>(std::floor(record.wall_time_s / rule.every_s));
}

}  // namespace

void Fold::define(std::uint32_t tag_id, FoldRule rule) {
  if (tag_id >= kMostNames) return;  // of a damaged record: it passes through
  if (tag_id >= rules_.size()) {
    rules_.resize(tag_id + 1);
    defined_.resize(tag_id + 1, false);
  }
  rules_[tag_id] = rule;
  defined_[tag_id] = true;
}

std::vector<std::uint32_t> Fold::undefined_tags(RecordSpan records) const {
  std::vector<std::uint32_t> undefined;
  for (const Record& record : records) {
    if (record.tag_id >= kMostNames) continue;
    if (record.tag_id >= defined_.size() || !defined_[record.tag_id]) {
      undefined.push_back(record.tag_id);
    }
  }
  std::sort(undefined.begin(), undefined.end());
  undefined.erase(std::unique(undefined.begin(), undefined.end()), undefined.end());
  return undefined;
}

void Fold::apply(RecordSpan records, std::vector<Record>& out) {
  for (const Record& record : records) {
    const FoldRule rule = record.tag_id < rules_.size() ? rules_[record.tag_id] : FoldRule{};
    if (record.kind != RecordKind::kScalar || !folds(rule) || !has_value(record) ||
        !std::isfinite(record.value)) {
      out.push_back(record);
      continue;
    }
    Window& window = windows_[std::uint64_t{record.writer_id} << 32 | record.tag_id];
    const std::int64_t number = window_number(rule, record);
    if (window.count > 0 && window.number != number) close(rule, window, out);
    if (window.count == 0) {
      window = Window{number, 0, 0, record, record, record};
    }
    ++window.count;
    ++held_;
    // Not (value - mean) / count: the difference of two large values could overflow.
    const auto count = static_cast<double>(window.count);
    window.mean += record.value / count - window.mean / count;
    window.last = record;
    if (record.value < window.least.value) window.least = record;
    if (record.value > window.greatest.value) window.greatest = record;
  }
}

void Fold::close(const FoldRule& rule, Window& window, std::vector<Record>& out) {
  std::uint64_t emitted = 1;
  switch (rule.reduce) {
    case Reduce::kMean: {
      Record mean = window.last;
      mean.value = window.mean;
      out.push_back(mean);
      break;
    }
    case Reduce::kLast:
      out.push_back(window.last);
      break;
    case Reduce::kMinMax: {
      const bool least_is_first = window.least.sequence <= window.greatest.sequence;
      out.push_back(least_is_first ? window.least : window.greatest);
      if (window.least.sequence != window.greatest.sequence) {
        out.push_back(least_is_first ? window.greatest : window.least);
        emitted = 2;
      }
      break;
    }
  }
  folded_ += window.count - emitted;
  held_ -= window.count;
  window.count = 0;
}

void Fold::flush(std::vector<Record>& out) {
  for (auto& [key, window] : windows_) {
    if (window.count > 0) close(rules_[static_cast<std::uint32_t>(key)], window, out);
  }
}

}  // namespace tracelet
