// What the CUDA kernels take and what they promise, without a CUDA header: the planner, the binding
// and the tests see nothing else of them.
//
// A pass of a problem is planned once, by a pure function of the problem and the device, into
// launches and the bytes of workspace they need. Running it launches them in that order on a
// stream: nothing is allocated, nothing waits for the device, so that a CUDA graph can capture it.
//
// Every address is a multiple of 16; images are dense in the layout of the problem, weights and
// biases are contiguous, all of the problem's dtype; a null bias is zero, a null gradient is not
// asked for. Sums are formed in float32. Every result is written whole, in an order that is the
// same in every run.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "../problem.h"

namespace pyphase::conv::cuda {

// A GPU as the planner sees it.
struct Device {
  int capability;  // 10 * major + minor
  int sms;         // streaming multiprocessors
  int threads_per_sm;
  int registers_per_sm;
  int shared_per_sm;     // bytes
  int shared_per_block;  // bytes that one block may ask for
  std::int64_t l2;       // bytes
  double bandwidth;      // bytes a second, of the memory
  double fma;            // float32 operations a second, two for each multiply-add
  double tensor;         // the same of mma.sync on bfloat16, summed in float32, without sparsity
  double tensor_best;    // the same of the fastest instructions (wgmma, tcgen05), for cuDNN
};

using Grid = std::array<unsigned, 3>;  // x, y, z

// One launch, as plain integers.
struct Launch {
  const char *kernel = "";  // as errors name it
  Grid grid{1, 1, 1}, block{1, 1, 1};
  unsigned shared = 0;           // bytes of dynamic shared memory
  std::array<int, 16> choice{};  // template arguments and tile sizes; the kernel's file names them
};

// A pass: no launches where no kernel serves it.
struct Plan {
  std::vector<Launch> launches;
  std::size_t workspace = 0;  // bytes
  double bytes = 0;           // read and written in global memory, halos and workspace included
  double flops = 0;           // two for each multiply-add, those on halos and padding included
  bool tensor_cores = false;  // which peak the flops are held against
};

// What a launch returned: a cudaError_t, and the kernel that it is about.
struct Status {
  int error = 0;
  const char *kernel = "";
};

using Stream = void *;  // a cudaStream_t

// Depthwise pairs and sums of them; a lone pair is a sum of one without residual. Backward plans
// are for all gradients.
Plan plan_depthwise_forward(const Strips &, const Device &);
Plan plan_depthwise_backward(const Strips &, const Device &);
Status depthwise_forward(const Strips &, const Plan &, const std::vector<PairData> &, void *y,
                         void *workspace, Stream);
// The gradient of x goes to the first entry's.
Status depthwise_backward(const Strips &, const Plan &, const std::vector<PairData> &,
                          const void *grad_y, const std::vector<Gradients> &, void *workspace,
                          Stream);

// Pairs with one group. `tf32`: whether float32 may be rounded to TF32, as torch's setting says.
Plan plan_dense_forward(const Pair &, const Device &, bool tf32);
Plan plan_dense_backward(const Pair &, const Device &, bool tf32);
Status dense_forward(const Pair &, const Plan &, const PairData &, void *y, void *workspace,
                     Stream);
Status dense_backward(const Pair &, const Plan &, const PairData &, const void *grad_y,
                      const Gradients &, void *workspace, Stream);

}  // namespace pyphase::conv::cuda
