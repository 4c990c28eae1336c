// An array as blocks of float or double, one after the other.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "tracelet/histogram/array_view.h"
#include "tracelet/histogram/kernel.h"

namespace tracelet {

template <typename Float>
struct Block {
  const Float* values;
  std::size_t count;
};

// Blocks lie in this object's memory, converted: each value is read once. Who counts looks at it
// more than once, and another thread may change the caller's memory meanwhile; a value that was
// summed as one and counted as another would leave its count where nobody clears it. `Float` is
// float where is_read_as_float32 says so, else double.
template <typename Float>
class BlockReader {
 public:
  BlockReader(const ArrayView& values, const KernelSet& kernels)
      : values_(values), kernels_(kernels) {
    const auto dimensions = values.dimensions();
    run_size_ = dimensions.empty() ? 1 : static_cast<std::size_t>(dimensions.back().size);
    run_stride_bytes_ = dimensions.empty() ? static_cast<std::ptrdiff_t>(sizeof(Float))
                                           : dimensions.back().stride_bytes;
    const ElementType own = sizeof(Float) == 4 ? ElementType::kFloat32 : ElementType::kFloat64;
    is_direct_ =
        values.type() == own && dimensions.size() <= 1 && run_stride_bytes_ == sizeof(Float);
  }

  // Goes to the elements from `begin` to `end`, in the view's order.
  void seek(std::size_t begin, std::size_t end) {
    position_ = begin;
    end_ = end;
    const auto dimensions = values_.dimensions();
    at_ = values_.data();
    for (std::size_t i = dimensions.size(); i-- > 0;) {
      const auto size = static_cast<std::size_t>(dimensions[i].size);
      index_[i] = static_cast<std::int64_t>(begin % size);
      begin /= size;
      at_ += index_[i] * dimensions[i].stride_bytes;
    }
  }

  // The next kBlockElements, or fewer at the end; none after it.
  Block<Float> next() {
    const std::size_t count = std::min(kBlockElements, end_ - position_);
    if (is_direct_) {
      std::memcpy(buffer_, values_.data() + position_ * sizeof(Float), count * sizeof(Float));
      position_ += count;
      return {buffer_, count};
    }
    for (std::size_t filled = 0; filled < count;) filled += read_run(filled, count - filled);
    position_ += count;
    return {buffer_, count};
  }

 private:
  // Reads on in the run at hand, at most `limit`, and goes to the next run at its end.
  std::size_t read_run(std::size_t filled, std::size_t limit) {
    const auto dimensions = values_.dimensions();
    const std::size_t last = dimensions.size() - 1;
    const std::size_t done = dimensions.empty() ? 0 : static_cast<std::size_t>(index_[last]);
    const std::size_t count = std::min(limit, run_size_ - done);
    kernels_.read(at_, values_.type(), run_stride_bytes_, count, buffer_ + filled);
    if (dimensions.empty()) return count;
    index_[last] += static_cast<std::int64_t>(count);
    at_ += static_cast<std::ptrdiff_t>(count) * run_stride_bytes_;
    for (std::size_t i = last + 1; i-- > 0 && index_[i] == dimensions[i].size;) {
      at_ -= dimensions[i].size * dimensions[i].stride_bytes;
      index_[i] = 0;
      if (i == 0) break;
      ++index_[i - 1];
      at_ += dimensions[i - 1].stride_bytes;
    }
    return count;
  }

  const ArrayView& values_;
  const KernelSet& kernels_;
  std::int64_t index_[ArrayView::kMostDimensions];
  std::size_t run_size_;
  std::ptrdiff_t run_stride_bytes_;
  bool is_direct_;
  std::size_t position_ = 0;
  std::size_t end_ = 0;
  const std::byte* at_ = nullptr;
  alignas(64) Float buffer_[kBlockElements];
};

}  // namespace tracelet
