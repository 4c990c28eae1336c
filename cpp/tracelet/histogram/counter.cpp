#include "tracelet/histogram/counter.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <system_error>
#include <thread>

#include "tracelet/histogram/block_reader.h"
#include "tracelet/platform.h"

namespace tracelet {
namespace {

constexpr std::size_t kPartElements = std::size_t{1} << 18;
constexpr std::size_t kElementsOfAnAutomaticThread = std::size_t{1} << 20;
constexpr int kMostAutomaticThreads = 4;
// From here on one table does for all four: the others would not stay in the cache, nor would
// emptying them be worth it for few values.
constexpr std::size_t kMostCellsOfFourTables = 4096;
constexpr std::size_t kLeastElementsOfFourTables = 512;
// A table's cells are 32 bits wide.
constexpr std::uint64_t kMostCountsOfATable = std::uint64_t{1} << 31;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

int choose_threads(int threads, std::size_t element_count) {
  const bool is_automatic = threads == 0;
  const std::size_t enough =
      element_count / (is_automatic ? kElementsOfAnAutomaticThread : kPartElements);
  if (enough <= 1) return 1;  // spares small arrays the system's answer on cores
  if (is_automatic) threads = is_forked() ? 1 : std::min(usable_cores(), kMostAutomaticThreads);
  return std::max(1, std::min(threads, static_cast<int>(std::min<std::size_t>(enough, 1024))));
}

// What one thread counts: parts of the array, taken from a common counter.
class HistogramCounter::Worker {
 public:
  explicit Worker(const KernelSet& kernels) : kernels_(kernels) {}

  void prepare(const BinEdges* edges, std::size_t element_count) {
    edges_ = edges;
    moments_ = {kInfinity, -kInfinity, 0, 0, 0, 0, 0};
    pending_ = 0;
    uncollected_ = 0;
    if (edges == nullptr) return;
    if (counts_.size() == edges->bin_count()) {
      std::fill_n(counts_.data() + occupied_.begin, occupied_.end - occupied_.begin, 0);
    } else {
      counts_.assign(edges->bin_count(), 0);
    }
    occupied_ = {};
    const Guess& guess = edges->guess();
    if (guess.kind == Guess::Kind::kNone) return;
    const auto below = static_cast<std::size_t>(std::max(1, -guess.first_cell));
    const std::size_t cell_count = below + static_cast<std::size_t>(guess.last_cell) + 1;
    const bool are_four =
        cell_count <= kMostCellsOfFourTables && element_count >= kLeastElementsOfFourTables;
    // All cells are zero between calls.
    const std::size_t needed = are_four ? CellTables::kCount * cell_count : cell_count;
    if (table_.size() < needed) table_.resize(needed);
    table_count_ = are_four ? CellTables::kCount : 1;
    for (std::size_t i = 0; i < CellTables::kCount; ++i) {
      tables_.cell_0[i] = table_.data() + below + (are_four ? i * cell_count : 0);
    }
  }

  void run(const ArrayView& values, std::atomic<std::size_t>& next_part,
           std::span<PartSums> part_sums) {
    if (is_read_as_float32(values.type())) {
      run_as(values, kernels_.float32, next_part, part_sums);
    } else {
      run_as(values, kernels_.float64, next_part, part_sums);
    }
  }

  // Adds the bins of another worker on the same edges.
  void add_counts(const Worker& other) {
    for (std::size_t i = other.occupied_.begin; i < other.occupied_.end; ++i) {
      counts_[i] += other.counts_[i];
    }
    occupied_.begin = std::min(occupied_.begin, other.occupied_.begin);
    occupied_.end = std::max(occupied_.end, other.occupied_.end);
  }

  const Moments& moments() const { return moments_; }
  const std::vector<std::uint64_t>& counts() const { return counts_; }
  BinRange occupied() const { return occupied_; }

 private:
  template <typename Float>
  void run_as(const ArrayView& values, const Kernel<Float>& kernel,
              std::atomic<std::size_t>& next_part, std::span<PartSums> part_sums) {
    BlockReader<Float> reader(values, kernels_);
    // Relaxed: it publishes nothing; what a worker wrote is read after its thread was joined.
    for (std::size_t part;
         (part = next_part.fetch_add(1, std::memory_order_relaxed)) < part_sums.size();) {
      const std::size_t begin = part * kPartElements;
      reader.seek(begin, std::min(begin + kPartElements, values.element_count()));
      for (Block<Float> block; (block = reader.next()).count > 0;) {
        add_sums(kernel, block, part_sums[part]);
        if (edges_ != nullptr) count_block(kernel, block);
      }
    }
    if (edges_ == nullptr) return;
    count_pending();
    collect();
  }

  template <typename Float>
  void add_sums(const Kernel<Float>& kernel, Block<Float> block, PartSums& part) {
    BlockSums sums = kernel.sum(block.values, block.count);
    std::uint64_t others = 0;
    if (!std::isfinite(sums.sum) || !std::isfinite(sums.sum_squares)) {
      others = sum_finite(block, sums);
    }
    part.sum += sums.sum;
    part.sum_squares += sums.sum_squares;
    moments_.num += block.count - others;
    moments_.min = std::min(moments_.min, sums.min);
    moments_.max = std::max(moments_.max, sums.max);
  }

  template <typename Float>
  std::uint64_t sum_finite(Block<Float> block, BlockSums& sums) {
    sums = {0, 0, kInfinity, -kInfinity};
    std::uint64_t others = 0;
    for (std::size_t i = 0; i < block.count; ++i) {
      const double x = block.values[i];
      if (!std::isfinite(x)) {
        ++others;
        ++(std::isnan(x) ? moments_.nan_count : moments_.inf_count);
        continue;
      }
      sums.sum += x;
      sums.sum_squares += x * x;
      sums.min = std::min(sums.min, x);
      sums.max = std::max(sums.max, x);
    }
    return others;
  }

  template <typename Float>
  void count_block(const Kernel<Float>& kernel, Block<Float> block) {
    const Guess& guess = edges_->guess();
    if (guess.kind == Guess::Kind::kNone) {
      for (std::size_t i = 0; i < block.count; ++i) count_exactly(block.values[i]);
      return;
    }
    std::int32_t* cells = cells_[turn_];
    std::uint32_t ambiguous_groups;
    if (pending_ == kBlockElements && block.count == kBlockElements) {
      ambiguous_groups =
          kernel.guess_and_count(block.values, guess, cells, cells_[1 - turn_], tables_);
    } else {
      count_pending();
      ambiguous_groups = kernel.guess(block.values, block.count, guess, cells);
    }
    for (; ambiguous_groups != 0; ambiguous_groups &= ambiguous_groups - 1) {
      resolve(block, cells,
              kGroupElements * static_cast<std::size_t>(std::countr_zero(ambiguous_groups)));
    }
    pending_ = block.count;
    turn_ = 1 - turn_;
    uncollected_ += block.count;
    if (uncollected_ >= kMostCountsOfATable) {
      count_pending();
      collect();
    }
  }

  // Finds the bins of the ambiguous values in the group that begins at `start`.
  template <typename Float>
  void resolve(Block<Float> block, const std::int32_t* cells, std::size_t start) {
    const std::size_t end = std::min(start + kGroupElements, block.count);
    for (std::size_t i = start; i < end; ++i) {
      if (cells[i] == -1 || cells[i] == 0) count_exactly(block.values[i]);
    }
  }

  void count_exactly(double x) {
    const std::size_t bin = edges_->find(x);
    if (bin != BinEdges::kOutside) ++counts_[bin];
  }

  void count_pending() {
    count_cells(cells_[1 - turn_], pending_, tables_);
    pending_ = 0;
  }

  // Moves the tables' counts into the bins', and leaves the tables empty.
  void collect() {
    occupied_ = bins_of_extremes();
    if (uncollected_ == 0) return;
    uncollected_ = 0;
    // A guess is in the value's bin or, ambiguous, not counted here.
    const bool are_all = occupied_.end - occupied_.begin == counts_.size();
    for (std::size_t i = 0; i < table_count_; ++i) {
      std::uint32_t* const cells = tables_.cell_0[i];
      for (const auto& [first_bin, end_bin, first_cell] : edges_->cell_runs()) {
        const std::size_t begin = std::max(first_bin, occupied_.begin);
        const std::size_t end = std::min(end_bin, occupied_.end);
        if (begin >= end) continue;
        std::uint32_t* const at =
            cells + first_cell + static_cast<std::ptrdiff_t>(begin - first_bin);
        for (std::size_t k = 0; k < end - begin; ++k) counts_[begin + k] += at[k];
        std::fill_n(at, end - begin, 0);
      }
      if (are_all) {
        const Guess& guess = edges_->guess();
        std::fill(cells + std::min(guess.first_cell, -1), cells + guess.last_cell + 1, 0);
      } else {
        cells[-1] = cells[0] = 0;
      }
    }
  }

  // The bins from the least to the greatest value so far, where each value is in one of them; all
  // bins where one may lie outside.
  BinRange bins_of_extremes() const {
    const std::uint64_t others = moments_.nan_count + moments_.inf_count;
    if (moments_.num + others == 0) return {0, 0};
    if (others > 0 || moments_.min < edges_->edges().front() ||
        moments_.max > edges_->edges().back()) {
      return {0, counts_.size()};
    }
    return {edges_->find(moments_.min), edges_->find(moments_.max) + 1};
  }

  const KernelSet& kernels_;
  const BinEdges* edges_ = nullptr;
  Moments moments_;
  std::vector<std::uint64_t> counts_;
  BinRange occupied_;  // outside of it counts_ is zero
  std::vector<std::uint32_t> table_;
  CellTables tables_;
  std::size_t table_count_ = 1;
  std::size_t pending_ = 0;  // cells of the last block that are not counted yet
  int turn_ = 0;
  std::uint64_t uncollected_ = 0;
  // Half a page of distance: a store to one and a load from the other at addresses that agree in
  // their last 12 bits look to the processor as if one waited for the other.
  static constexpr std::size_t kCellsStride = kBlockElements + 512;
  alignas(64) std::int32_t cells_[2][kCellsStride];
};

HistogramCounter::HistogramCounter(const KernelSet& kernels) : kernels_(kernels) {}
HistogramCounter::~HistogramCounter() = default;

void HistogramCounter::count(const ArrayView& values, const BinEdges& edges, int threads) {
  run(values, &edges, threads);
}

std::span<const std::uint64_t> HistogramCounter::counts() const { return workers_[0]->counts(); }

BinRange HistogramCounter::occupied_bins() const { return workers_[0]->occupied(); }

void HistogramCounter::measure(const ArrayView& values, int threads) {
  run(values, nullptr, threads);
}

void HistogramCounter::run(const ArrayView& values, const BinEdges* edges, int threads) {
  const auto wanted = static_cast<std::size_t>(choose_threads(threads, values.element_count()));
  while (workers_.size() < wanted) workers_.push_back(std::make_unique<Worker>(kernels_));
  for (std::size_t i = 0; i < wanted; ++i) workers_[i]->prepare(edges, values.element_count());
  part_sums_.assign((values.element_count() + kPartElements - 1) / kPartElements, {});
  std::atomic<std::size_t> next_part{0};

  std::vector<std::thread> started;
  started.reserve(wanted);  // no exception once a thread runs
  for (std::size_t i = 1; i < wanted; ++i) {
    try {
      started.emplace_back([&, i] { workers_[i]->run(values, next_part, part_sums_); });
    } catch (const std::system_error&) {
      break;  // the system has no more threads: those there are do it
    }
  }
  workers_[0]->run(values, next_part, part_sums_);
  for (std::thread& thread : started) thread.join();

  moments_ = {kInfinity, -kInfinity, 0, 0, 0, 0, 0};
  for (std::size_t i = 0; i < wanted; ++i) {
    const Moments& part = workers_[i]->moments();
    moments_.min = std::min(moments_.min, part.min);
    moments_.max = std::max(moments_.max, part.max);
    moments_.num += part.num;
    moments_.nan_count += part.nan_count;
    moments_.inf_count += part.inf_count;
    if (edges != nullptr && i > 0) workers_[0]->add_counts(*workers_[i]);
  }
  for (const PartSums& part : part_sums_) {
    moments_.sum += part.sum;
    moments_.sum_squares += part.sum_squares;
  }
  if (moments_.num == 0) {
    moments_.min = moments_.max = std::numeric_limits<double>::quiet_NaN();
  }
}

}  // namespace tracelet
