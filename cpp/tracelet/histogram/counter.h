// Counts the values of an array into bins, and sums them, in one pass over the caller's memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "tracelet/histogram/array_view.h"
#include "tracelet/histogram/bin_edges.h"
#include "tracelet/histogram/kernel.h"

namespace tracelet {

// Of the finite values, `num` of them; min and max are NaN when there are none.
struct Moments {
  double min = 0;
  double max = 0;
  double sum = 0;
  double sum_squares = 0;
  std::uint64_t num = 0;
  std::uint64_t nan_count = 0;
  std::uint64_t inf_count = 0;
};

// How many threads to use. `threads` as 0: one for each 1,048,576 values, at most 4 and at most
// usable_cores(); one in a forked child, which is one of many that share the cores. On a machine
// whose cores are busy a thread more may wait for one for milliseconds, longer than a million
// values take. Otherwise as many as asked for, with 262,144 values each. Sums don't depend on the
// number: they are formed by parts of a fixed size, in order.
int choose_threads(int threads, std::size_t element_count);

// Holds the tables, so that a call allocates nothing once they are large enough. One thread at a
// time; each thread that counts has a counter of its own.
class HistogramCounter {
 public:
  explicit HistogramCounter(const KernelSet& kernels = best_kernels());
  ~HistogramCounter();
  HistogramCounter(const HistogramCounter&) = delete;
  HistogramCounter& operator=(const HistogramCounter&) = delete;

  // Counts with choose_threads(threads, ...) threads. Infinities are counted in bins whose edge is
  // infinite, NaN never.
  void count(const ArrayView& values, const BinEdges& edges, int threads = 1);
  // Only the moments, for bins that depend on the range.
  void measure(const ArrayView& values, int threads = 1);

  const Moments& moments() const { return moments_; }
  // One count for each bin; good until the next call.
  std::span<const std::uint64_t> counts() const;
  // The counts of all other bins are 0.
  BinRange occupied_bins() const;

 private:
  class Worker;
  struct PartSums {
    double sum = 0;
    double sum_squares = 0;
  };

  void run(const ArrayView& values, const BinEdges* edges, int threads);

  const KernelSet& kernels_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<PartSums> part_sums_;
  Moments moments_;
};

}  // namespace tracelet
