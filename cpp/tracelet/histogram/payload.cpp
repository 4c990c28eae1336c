#include "tracelet/histogram/payload.h"

#include <algorithm>
#include <bit>
#include <cstring>

namespace tracelet {
namespace {

template <typename T>
void append_raw(std::string& out, const T* values, std::size_t count) {
  out.append(reinterpret_cast<const char*>(values), count * sizeof(T));
}

char* write_varint(char* out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) *out++ = static_cast<char>(value | 0x80);
  *out++ = static_cast<char>(value);
  return out;
}
constexpr std::size_t kLongestVarint = 10;

// Goes from one count that is not 0 to the next by the bits of a mask: a branch for each of the
// many zeros between them would be guessed wrong at every change.
void append_counts(std::string& out, std::span<const std::uint64_t> counts) {
  constexpr std::size_t kMaskBits = 64;
  char written[kMaskBits * (2 * kLongestVarint + 1)];
  std::size_t done = 0;  // counts that were written
  const auto write_zeros = [&](char* to, std::size_t end) {
    if (end == done) return to;
    *to++ = 0;
    return write_varint(to, end - done);
  };
  for (std::size_t start = 0; start < counts.size(); start += kMaskBits) {
    const std::size_t size = std::min(kMaskBits, counts.size() - start);
    std::uint64_t mask = 0;
#pragma GCC unroll 8
    for (std::size_t i = 0; i < size; ++i) mask |= std::uint64_t{counts[start + i] != 0} << i;
    char* to = written;
    for (; mask != 0; mask &= mask - 1) {
      const std::size_t i = start + static_cast<std::size_t>(std::countr_zero(mask));
      to = write_zeros(to, i);
      to = write_varint(to, counts[i]);
      done = i + 1;
    }
    out.append(written, to);
  }
  out.append(written, write_zeros(written, counts.size()));
}

bool read_varint(std::span<const std::byte>& bytes, std::uint64_t* value) {
  *value = 0;
  for (unsigned shift = 0; shift < 64 && !bytes.empty(); shift += 7) {
    const auto byte = static_cast<std::uint64_t>(bytes.front());
    bytes = bytes.subspan(1);
    *value |= (byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return false;
}

bool read_doubles(std::span<const std::byte>& bytes, std::size_t count,
                  std::vector<double>& values) {
  if (bytes.size() / sizeof(double) < count) return false;
  values.resize(count);
  if (count == 0) return true;
  std::memcpy(values.data(), bytes.data(), count * sizeof(double));
  bytes = bytes.subspan(count * sizeof(double));
  return true;
}

bool read_counts(std::span<const std::byte>& bytes, std::size_t count,
                 std::vector<double>& counts) {
  counts.clear();
  while (counts.size() < count) {
    std::uint64_t value;
    std::uint64_t repeats = 1;
    if (!read_varint(bytes, &value)) return false;
    if (value == 0 && !read_varint(bytes, &repeats)) return false;
    if (repeats == 0 || repeats > count - counts.size()) return false;
    counts.insert(counts.end(), repeats, static_cast<double>(value));
  }
  return true;
}

HistogramHeader header_of(const Moments& moments) {
  HistogramHeader header{};
  if (moments.num > 0) {
    header.min = moments.min;
    header.max = moments.max;
    header.sum = moments.sum;
    header.sum_squares = moments.sum_squares;
    header.num = static_cast<double>(moments.num);
  }
  header.nan_count = moments.nan_count;
  header.inf_count = moments.inf_count;
  return header;
}

// Bins merged as torch's make_histogram merges them: groups of bins / max_bins, the last one
// padded.
struct MergedBins {
  std::vector<std::uint64_t> counts;
  std::vector<double> edges;
};

MergedBins merge(const BinEdges& edges, std::span<const std::uint64_t> counts,
                 std::size_t max_bins) {
  const std::size_t group = counts.size() / max_bins;
  MergedBins merged;
  for (std::size_t start = 0; start < counts.size(); start += group) {
    std::uint64_t sum = 0;
    for (std::size_t i = start; i < std::min(start + group, counts.size()); ++i) sum += counts[i];
    merged.counts.push_back(sum);
    merged.edges.push_back(edges.edges()[start]);
  }
  merged.edges.push_back(edges.edges().back());
  return merged;
}

}  // namespace

void append_histogram_payload(const Moments& moments, const BinEdges& edges,
                              std::span<const std::uint64_t> counts, std::size_t max_bins,
                              std::string& out, BinRange occupied) {
  HistogramHeader header = header_of(moments);
  std::span<const double> limits = edges.edges();
  MergedBins merged;
  const bool is_merged = max_bins != 0 && counts.size() > max_bins;
  if (is_merged) {
    merged = merge(edges, counts, max_bins);
    limits = merged.edges;
    counts = merged.counts;
    occupied = kAllBins;
  }
  std::size_t start = occupied.begin;
  std::size_t end = std::min(occupied.end, counts.size());
  while (start < end && counts[start] == 0) ++start;
  while (end > start && counts[end - 1] == 0) --end;
  const bool is_explicit = is_merged || !edges.is_tensorflow();
  header.flags = is_explicit ? kExplicitLimits : 0;
  if (start < end) {
    // An empty bucket comes first, whose limit is the left edge of the first that is not empty.
    header.bucket_count = static_cast<std::uint32_t>(end - start + 1);
    header.first_edge = is_explicit ? std::uint16_t{0} : static_cast<std::uint16_t>(start);
  }
  append_raw(out, &header, 1);
  if (start >= end) return;
  if (is_explicit) append_raw(out, limits.data() + start, header.bucket_count);
  out.append({'\0', '\1'});
  append_counts(out, counts.subspan(start, end - start));
}

void append_raw_histogram_payload(const HistogramHeader& moments, std::span<const double> limits,
                                  std::span<const double> counts, std::string& out) {
  HistogramHeader header = moments;
  header.bucket_count = static_cast<std::uint32_t>(limits.size());
  header.flags = kExplicitLimits | kDoubleCounts;
  append_raw(out, &header, 1);
  append_raw(out, limits.data(), limits.size());
  append_raw(out, counts.data(), counts.size());
}

void append_parked_histogram_payload(std::uint64_t ticket, std::size_t bin_count,
                                     std::string& out) {
  // Explicit limits, and counts that are a zero with its run or as long as a varint gets.
  HistogramHeader header{};
  header.nan_count = ticket;
  header.flags = kParked;
  append_raw(out, &header, 1);
  out.append((bin_count + 1) * (sizeof(double) + kLongestVarint) + 2, '\0');
}

bool HistogramBuckets::read(std::span<const std::byte> payload) {
  limits.clear();
  counts.clear();
  if (payload.size() < sizeof(header)) return false;
  std::memcpy(&header, payload.data(), sizeof(header));
  if ((header.flags & kParked) != 0) return false;
  payload = payload.subspan(sizeof(header));
  const std::size_t count = header.bucket_count;
  if ((header.flags & kExplicitLimits) != 0) {
    if (!read_doubles(payload, count, limits)) return false;
  } else {
    const std::span<const double> edges = BinEdges::tensorflow().edges();
    if (header.first_edge > edges.size() || count > edges.size() - header.first_edge) return false;
    limits.assign(edges.begin() + header.first_edge,
                  edges.begin() + header.first_edge + static_cast<std::ptrdiff_t>(count));
  }
  if ((header.flags & kDoubleCounts) != 0) return read_doubles(payload, count, counts);
  return read_counts(payload, count, counts);
}

}  // namespace tracelet
