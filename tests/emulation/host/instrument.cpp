// The checking runtime. -fsanitize=thread puts a call of __tsan_* before each load and store of the
// kernels' object; libtsan is not linked, and these functions answer the calls instead.
#include <cstdio>

#include "shadow.h"
#include "tensors.h"

namespace cuda_host {
namespace {

Shadow shadow;
Tensors tensors;
constexpr std::ptrdiff_t kMargin = 4096;  // around shared memory, where an access is meant for it

[[noreturn]] void report(const std::string &what, int bytes, bool write, const void *caller) {
  char place[32];
  std::snprintf(place, sizeof place, ", pc %p", caller);
  fail((what + " (" + (write ? "write" : "read") + " of " + std::to_string(bytes) + " bytes" +
        place + ")")
           .c_str());
}

void access(const void *address, int bytes, bool write, const void *caller) {
  if (block.running < 0) return;
  const char *const at = static_cast<const char *>(address);
  const bool shared = block.shared && at >= block.shared - kMargin &&
                      at < block.shared + block.shared_bytes + kMargin;
  if (!shared && !tensors.holds(address)) return;  // the thread's own stack
  if (bytes <= 16 && (bytes & (bytes - 1)) == 0 &&
      reinterpret_cast<std::uintptr_t>(address) % static_cast<unsigned>(bytes)) {
    report("misaligned access", bytes, write, caller);
  }
  std::string wrong;
  if (shared) {
    const std::ptrdiff_t offset = at - block.shared;
    const std::string place = " at shared[" + std::to_string(offset) + " of " +
                              std::to_string(block.shared_bytes) + " bytes]";
    if (offset < 0 || offset + bytes > static_cast<std::ptrdiff_t>(block.shared_bytes)) {
      report("out of bounds" + place, bytes, write, caller);
    }
    wrong = shadow.access(static_cast<std::size_t>(offset), bytes, write);
    if (!wrong.empty()) wrong += place;
  } else {
    wrong = tensors.access(at, bytes, write);
  }
  if (!wrong.empty()) report(wrong, bytes, write, caller);
}

struct Install {
  Install() {
    checks.access = access;
    checks.begin_launch = [] { tensors.begin_launch(); };
    checks.begin_block = [] { shadow.begin_block(); };
    checks.start_copy = [](const void *to, int bytes) {
      shadow.start_copy(static_cast<std::size_t>(static_cast<const char *>(to) - block.shared),
                        bytes);
    };
  }
} install;

}  // namespace
}  // namespace cuda_host

using cuda_host::tensors;

extern "C" {

void *emulation_tensor(const char *name, std::size_t bytes, int role) {
  return tensors.add(name, bytes, static_cast<cuda_host::Role>(role));
}
void emulation_clear() { tensors.clear(); }
// 0: bytes read, 1: bytes written, 2: bytes of it that nobody wrote
std::uint64_t emulation_count(std::size_t tensor, int what) {
  const auto &of = tensors.at(tensor);
  if (what == 0) return of.bytes_read;
  if (what == 1) return of.bytes_written;
  std::uint64_t never = 0;
  for (const std::uint64_t writer : of.writers) never += writer == 0;
  return never;
}

void __tsan_init() {}
void __tsan_func_entry(void *) {}
void __tsan_func_exit() {}
void __tsan_vptr_update(void **, void *) {}
void __tsan_vptr_read(void **) {}
std::uint8_t __tsan_atomic8_load(const volatile std::uint8_t *flag, int) { return *flag; }

#define CALLER __builtin_return_address(0)
#define ANSWER(n)                                                                    \
  void __tsan_read##n(void *p) { cuda_host::access(p, n, false, CALLER); }           \
  void __tsan_write##n(void *p) { cuda_host::access(p, n, true, CALLER); }           \
  void __tsan_volatile_read##n(void *p) { cuda_host::access(p, n, false, CALLER); }  \
  void __tsan_volatile_write##n(void *p) { cuda_host::access(p, n, true, CALLER); }  \
  void __tsan_unaligned_read##n(void *p) { cuda_host::access(p, n, false, CALLER); } \
  void __tsan_unaligned_write##n(void *p) { cuda_host::access(p, n, true, CALLER); }
ANSWER(1)
ANSWER(2)
ANSWER(4)
ANSWER(8)
ANSWER(16)
void __tsan_read_range(void *p, long n) {
  cuda_host::access(p, static_cast<int>(n), false, CALLER);
}
void __tsan_write_range(void *p, long n) {
  cuda_host::access(p, static_cast<int>(n), true, CALLER);
}
// Copies of whole structures; their memory is looked at as a read and a write.
void *__tsan_memcpy(void *to, const void *from, std::size_t n) {
  cuda_host::access(from, static_cast<int>(n), false, CALLER);
  cuda_host::access(to, static_cast<int>(n), true, CALLER);
  return __builtin_memcpy(to, from, n);
}
void *__tsan_memset(void *to, int value, std::size_t n) {
  cuda_host::access(to, static_cast<int>(n), true, CALLER);
  return __builtin_memset(to, value, n);
}

}  // extern "C"
