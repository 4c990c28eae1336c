// The inner loops of a histogram, compiled once for each instruction set of the machine's family.
//
// They know float32 and float64. Other element types are converted a block at a time, into memory
// that stays in the processor's first cache: float32 where that is exact, else float64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "tracelet/histogram/array_view.h"
#include "tracelet/histogram/bin_edges.h"

namespace tracelet {

// What is guessed, and summed, in one go: with its cells it stays in the first cache.
inline constexpr std::size_t kBlockElements = 1024;
// Of each group of so many values it is known whether some of their cells are ambiguous.
inline constexpr std::size_t kGroupElements = 32;
static_assert(kBlockElements / kGroupElements <= 32, "a block's groups are the bits of a word");

// Four tables of counts by cell, so that equal values in a row don't wait for each other's store:
// the element at i is counted in table i % 4. The pointers are to cell 0; cells may be negative.
// All four may be one table.
struct CellTables {
  static constexpr std::size_t kCount = 4;

  std::uint32_t* cell_0[kCount] = {};
};

// Of finite values; a value that is not finite makes a sum that is not.
struct BlockSums {
  double sum;
  double sum_squares;
  double min;
  double max;
};

template <typename Float>
struct Kernel {
  // The cells of `count` values, at most a block. Returns a bit for each group that has ambiguous
  // ones, whose cells are -1 or 0.
  std::uint32_t (*guess)(const Float* values, std::size_t count, const Guess& guess,
                         std::int32_t* cells);
  // The same for a whole block, and meanwhile counts the cells of the block before it: the guess
  // waits for arithmetic and the counts for stores, so together they take little more than either.
  std::uint32_t (*guess_and_count)(const Float* values, const Guess& guess, std::int32_t* cells,
                                   const std::int32_t* previous_cells, const CellTables& tables);
  BlockSums (*sum)(const Float* values, std::size_t count);
};

struct KernelSet {
  const char* name;
  Kernel<float> float32;
  Kernel<double> float64;
  // Converts `count` elements that lie `stride_bytes` apart to float or double, as
  // is_read_as_float32 says. No alignment is asked for.
  void (*read)(const std::byte* data, ElementType type, std::ptrdiff_t stride_bytes,
               std::size_t count, void* out);
};

// Whether float32 holds every value of the type.
bool is_read_as_float32(ElementType type);

void count_cells(const std::int32_t* cells, std::size_t count, const CellTables& tables);

// Those that this processor can run, the best one first, the portable one last.
std::span<const KernelSet* const> available_kernels();
inline const KernelSet& best_kernels() { return *available_kernels().front(); }

}  // namespace tracelet
