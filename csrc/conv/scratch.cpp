#include "scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace pyphase::conv {
namespace {

constexpr std::size_t kAlignment = 64;

// For the address sanitizer each call's memory ends where it asked for.
#ifdef __SANITIZE_ADDRESS__
constexpr bool kExact = true;
#else
constexpr bool kExact = false;
#endif

struct Free {
  void operator()(void *memory) const { std::free(memory); }
};

struct Block {
  std::unique_ptr<void, Free> memory;
  std::size_t capacity = 0;
};

thread_local Block blocks[2];

}  // namespace

void *scratch(std::size_t bytes, Scratch use) {
  Block &block = blocks[static_cast<int>(use)];
  if (kExact || bytes > block.capacity) {
    block.capacity = 0;
    block.memory.reset();
    void *memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes) != 0) {
      throw std::bad_alloc();
    }
    block.memory.reset(memory);
    block.capacity = bytes;
  }
  return block.memory.get();
}

}  // namespace pyphase::conv
