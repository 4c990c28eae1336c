#include "tracelet/histogram/timelines.h"

#include <cstring>
#include <string_view>
#include <utility>

#include "tracelet/crc32c.h"

namespace tracelet {
namespace {

constexpr std::string_view kMagic{"TLVIEW1\0", 8};

template <typename Number>
void append_number(std::string& out, Number number) {
  out.append(reinterpret_cast<const char*>(&number), sizeof(number));
}

template <typename Number>
bool take_number(std::span<const std::byte>& bytes, Number& number) {
  if (bytes.size() < sizeof(number)) return false;
  std::memcpy(&number, bytes.data(), sizeof(number));
  bytes = bytes.subspan(sizeof(number));
  return true;
}

}  // namespace

std::vector<HistogramTimelines::Key> HistogramTimelines::observe(RecordSpan records,
                                                                 PayloadSpan payloads) {
  std::vector<Key> added;
  for (const Record& record : records) {
    if (record.kind != RecordKind::kHistogram || record.sequence <= last_sequence_) continue;
    last_sequence_ = record.sequence;
    if (!buckets_.read(payloads.of(record))) continue;
    const Key key{record.writer_id, record.tag_id};
    const auto [found, is_new] = series_.try_emplace(key);
    if (is_new) added.push_back(key);
    Series& series = found->second;
    series.timeline.add(record.step, buckets_);
    series.has_changed = !series.timeline.is_empty();
  }
  return added;
}

std::vector<HistogramTimelines::Figure> HistogramTimelines::take_changed() {
  std::vector<Figure> figures;
  for (auto& [key, series] : series_) {
    if (!series.has_changed) continue;
    series.has_changed = false;
    figures.push_back({key, {}});
    series.timeline.append_heatmap_figure(figures.back().plot);
  }
  return figures;
}

void HistogramTimelines::append_state(std::string& out) const {
  const std::size_t start = out.size();
  out.append(kMagic);
  append_number(out, last_sequence_);
  append_number(out, static_cast<std::uint32_t>(series_.size()));
  for (const auto& [key, series] : series_) {
    append_number(out, key.writer_id);
    append_number(out, key.tag_id);
    series.timeline.append_state(out);
  }
  append_number(out, crc32c(out.data() + start, out.size() - start));
}

bool HistogramTimelines::restore(std::span<const std::byte> state) {
  std::uint32_t crc;
  if (state.size() < kMagic.size() + sizeof(crc)) return false;
  std::span<const std::byte> last = state.last(sizeof(crc));
  take_number(last, crc);
  state = state.first(state.size() - sizeof(crc));
  if (crc != crc32c(state.data(), state.size()) ||
      std::memcmp(state.data(), kMagic.data(), kMagic.size()) != 0) {
    return false;
  }
  state = state.subspan(kMagic.size());
  std::uint64_t last_sequence;
  std::uint32_t count;
  if (!take_number(state, last_sequence) || !take_number(state, count)) return false;
  std::map<Key, Series> found;
  for (std::uint32_t i = 0; i < count; ++i) {
    Key key;
    if (!take_number(state, key.writer_id) || !take_number(state, key.tag_id)) return false;
    if (!found[key].timeline.take_state(state)) return false;
  }
  if (!state.empty()) return false;
  series_ = std::move(found);
  last_sequence_ = last_sequence;
  return true;
}

std::vector<HistogramTimelines::Key> HistogramTimelines::keys() const {
  std::vector<Key> keys;
  for (const auto& [key, series] : series_) keys.push_back(key);
  return keys;
}

}  // namespace tracelet
