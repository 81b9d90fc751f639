#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

namespace cuda_host {

Stacks::~Stacks() {
  if (memory_) munmap(memory_, static_cast<std::size_t>(count_) * kBytes);
}

void Stacks::reserve(int count) {
  if (count <= count_) return;
  if (memory_) munmap(memory_, static_cast<std::size_t>(count_) * kBytes);
  void *memory = mmap(nullptr, static_cast<std::size_t>(count) * kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  memory_ = static_cast<char *>(memory);
  count_ = count;
  for (int i = 0; i < count; ++i) mprotect(top(i) - kBytes, kGuard, PROT_NONE);
}

#if defined(__x86_64__)

// Saves the registers that a call preserves, and the stack pointer.
__attribute__((naked, noinline)) static void swap_stacks(void ** /*save*/, void * /*to*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp,(%rdi)\n movq %rsi,%rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret");
}

void prepare(Context &context, char *top, void (*entry)()) {
  void **stack = reinterpret_cast<void **>(reinterpret_cast<std::uintptr_t>(top) & ~15ul);
  *--stack = nullptr;  // as after a call: the stack pointer is 8 past a multiple of 16
  *--stack = reinterpret_cast<void *>(entry);
  for (int i = 0; i < 6; ++i) *--stack = nullptr;
  context.stack_pointer = stack;
}

void switch_context(Context &from, Context &to) {
  swap_stacks(&from.stack_pointer, to.stack_pointer);
}

#else

void prepare(Context &context, char *top, void (*entry)()) {
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = top - Stacks::kBytes + Stacks::kGuard;
  context.state.uc_stack.ss_size = Stacks::kBytes - Stacks::kGuard;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
}

void switch_context(Context &from, Context &to) { swapcontext(&from.state, &to.state); }

#endif

}  // namespace cuda_host
