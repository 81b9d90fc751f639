// Fibers: several stacks, one of which runs. Own switch on x86-64, ucontext elsewhere.
#pragma once

#include <cstddef>
#include <vector>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace cuda_host {

// The stacks of a block's threads, each above a page that cannot be touched.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks &) = delete;
  ~Stacks();
  void reserve(int count);
  char *top(int index) const { return memory_ + static_cast<std::size_t>(index + 1) * kBytes; }

  static constexpr std::size_t kBytes = 128 << 10, kGuard = 4096;

 private:
  char *memory_ = nullptr;
  int count_ = 0;
};

#if defined(__x86_64__)
struct Context {
  void *stack_pointer = nullptr;
};
#else
struct Context {
  ucontext_t state;
};
#endif

// Make `context` start `entry` on the stack that ends at `top`; entry never returns.
void prepare(Context &context, char *top, void (*entry)());
void switch_context(Context &from, Context &to);

}  // namespace cuda_host
