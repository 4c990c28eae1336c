// Counting a Python argument into the bins that another one names.
#pragma once

#include <optional>

#include "array_argument.h"
#include "bindings.h"
#include "tracelet/histogram/bin_edges.h"
#include "tracelet/histogram/counter.h"

namespace tracelet::bindings {

// Sets the function that finds the edges of bins that are no number: (values, bins, range) to a
// float64 array. It raises TypeError or ValueError.
void set_edge_finder(PyObject* finder);

// Whether a call asks for TensorBoard's bins; `bins` may be null.
bool is_tensorflow(PyObject* bins);

// The calling thread's counter, with what it counted last.
HistogramCounter& thread_counter();

// The bins of a call: TensorBoard's own, or those it asked for.
class Bins {
 public:
  const BinEdges& edges() const { return own_ ? *own_ : BinEdges::tensorflow(); }

  // For `bins` as SummaryWriter.add_histogram and numpy.histogram take it, null or 'tensorflow' for
  // TensorBoard's. A number of bins over no `range` measures the values. False with a Python
  // exception set.
  bool choose(PyObject* values, const ArrayView& view, PyObject* bins, PyObject* range,
              int threads);

 private:
  bool find(PyObject* values, PyObject* bins, PyObject* range);
  bool divide(const ArrayView& view, PyObject* bins, PyObject* range, int threads);

  std::optional<BinEdges> own_;
};

// Counts by thread_counter(), without the GIL where there is much to count.
void count_values(const ArrayView& view, const BinEdges& edges, int threads);

}  // namespace tracelet::bindings
