// From a problem's dtype to the kernels of that dtype.
#pragma once

#include "kernels.h"

namespace pyphase::conv::cuda {

// body(kernels of a dtype)
template <template <Scalar> class Kernels, class Body>
Status with_kernels(Scalar scalar, Body body) {
  switch (scalar) {
    case Scalar::f16:
      return body(Kernels<Scalar::f16>{});
    case Scalar::bf16:
      return body(Kernels<Scalar::bf16>{});
    default:
      return body(Kernels<Scalar::f32>{});
  }
}

}  // namespace pyphase::conv::cuda
