// Memory of the caller as the kernel reads it: any element type of numpy and torch, any strides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tracelet {

enum class ElementType : std::uint8_t {
  kBool,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kUInt8,
  kUInt16,
  kUInt32,
  kUInt64,
  kFloat16,
  kBfloat16,
  kFloat32,
  kFloat64,
};
std::size_t size_bytes(ElementType type);

// One dimension: so many elements, so many bytes apart. Strides may be zero or negative.
struct Dimension {
  std::int64_t size;
  std::int64_t stride_bytes;
};

// Borrowed memory. A histogram does not depend on the order of its elements, so the dimensions are
// sorted and merged when the view is made: a transposed array that fills its memory is one run.
class ArrayView {
 public:
  static constexpr std::size_t kMostDimensions = 64;  // numpy's and torch's limit

  // At most kMostDimensions.
  ArrayView(const void* data, ElementType type, std::span<const Dimension> dimensions);

  const std::byte* data() const { return data_; }
  ElementType type() const { return type_; }
  std::size_t element_count() const { return element_count_; }
  // Outermost first; none for a single element, the last one is the run that is read in one go.
  std::span<const Dimension> dimensions() const { return {dimensions_, dimension_count_}; }

 private:
  const std::byte* data_;
  ElementType type_;
  std::size_t element_count_;
  Dimension dimensions_[kMostDimensions];
  std::size_t dimension_count_ = 0;
};

}  // namespace tracelet
