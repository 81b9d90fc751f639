#include "scratch.h"

#include <cstdlib>
#include <memory>
#include <new>

namespace pyphase::conv {
namespace {

constexpr std::size_t kAlignment = 64;

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
  if (bytes > block.capacity) {
    block.capacity = 0;
    block.memory.reset();
    const std::size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    block.memory.reset(std::aligned_alloc(kAlignment, rounded));
    if (!block.memory) {
      throw std::bad_alloc();
    }
    block.capacity = rounded;
  }
  return block.memory.get();
}

}  // namespace pyphase::conv
