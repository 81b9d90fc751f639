// Compiled once per instruction set: PYPHASE_ISA names it, PYPHASE_VECTOR_BYTES is its width.
#include "../kernels.h"

#include "dense_backward.h"
#include "dense_forward.h"
#include "depthwise_backward.h"
#include "depthwise_forward.h"

namespace pyphase::conv::PYPHASE_ISA {

#define PYPHASE_STRING_(name) #name
#define PYPHASE_STRING(name) PYPHASE_STRING_(name)

extern const Kernels kKernels;
const Kernels kKernels = {PYPHASE_STRING(PYPHASE_ISA), depthwise_forward, depthwise_backward,
                          dense::dense_forward, dense::dense_backward};

}  // namespace pyphase::conv::PYPHASE_ISA
