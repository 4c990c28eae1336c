#include "tracelet/histogram/array_view.h"

#include <algorithm>
#include <cstdlib>

namespace tracelet {

std::size_t size_bytes(ElementType type) {
  switch (type) {
    case ElementType::kBool:
    case ElementType::kInt8:
    case ElementType::kUInt8:
      return 1;
    case ElementType::kInt16:
    case ElementType::kUInt16:
    case ElementType::kFloat16:
    case ElementType::kBfloat16:
      return 2;
    case ElementType::kInt32:
    case ElementType::kUInt32:
    case ElementType::kFloat32:
      return 4;
    case ElementType::kInt64:
    case ElementType::kUInt64:
    case ElementType::kFloat64:
      return 8;
  }
  return 0;
}

ArrayView::ArrayView(const void* data, ElementType type, std::span<const Dimension> dimensions)
    : data_(static_cast<const std::byte*>(data)), type_(type), element_count_(1) {
  for (const Dimension& dimension : dimensions) {
    element_count_ *= static_cast<std::size_t>(dimension.size);
  }
  if (element_count_ == 0) {  // and perhaps no memory
    dimensions_[0] = {0, 0};
    dimension_count_ = 1;
    return;
  }
  for (Dimension dimension : dimensions) {
    if (dimension.size <= 1) continue;
    if (dimension.stride_bytes < 0) {  // from its other end on
      data_ += (dimension.size - 1) * dimension.stride_bytes;
      dimension.stride_bytes = -dimension.stride_bytes;
    }
    dimensions_[dimension_count_++] = dimension;
  }
  std::sort(dimensions_, dimensions_ + dimension_count_,
            [](const Dimension& a, const Dimension& b) { return a.stride_bytes > b.stride_bytes; });
  for (std::size_t i = dimension_count_; i-- > 1;) {
    const Dimension inner = dimensions_[i];
    if (dimensions_[i - 1].stride_bytes != inner.size * inner.stride_bytes) continue;
    dimensions_[i - 1] = {dimensions_[i - 1].size * inner.size, inner.stride_bytes};
    std::move(dimensions_ + i + 1, dimensions_ + dimension_count_, dimensions_ + i);
    --dimension_count_;
  }
}

}  // namespace tracelet
