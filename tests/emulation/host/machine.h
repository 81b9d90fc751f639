// One block at a time, each of its threads a fiber, all on one thread of the host.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda_host.h"
#include "fiber.h"

namespace cuda_host {

struct Copy {  // one cp.async: `bytes` to `to`, the first `valid` of them from `from`, the rest 0
  char *to;
  const char *from;
  int bytes, valid;
};

enum class State : std::uint8_t { ready, at_barrier, at_meeting, done };

struct Thread {
  Context context;
  uint3 index{};
  int number = 0;  // in the block
  State state = State::ready;
  Site site{"its start", 0};  // where it waits
  std::uint32_t mask = 0;
  Work work = nullptr;
  void *arguments = nullptr;
  std::vector<std::vector<Copy>> groups;  // committed, not yet waited for
  std::vector<Copy> open;

  int warp() const { return number >> 5; }
};

// The order in which threads get their turn. A correct program has the same results in all.
enum class Turns { forward, backward, shuffled };

struct Config {
  Turns turns = Turns::forward;
  unsigned seed = 1;
  int shared_limit = 227 << 10;  // bytes that a block may ask for
};

struct Block {
  int number = 0;  // in the grid
  std::vector<Thread> threads;
  int running = -1;                        // the thread whose turn it is; -1: none
  std::uint32_t epoch = 1;                 // barriers passed
  std::vector<std::uint32_t> warp_epochs;  // __syncwarp()s passed, by warp
  char *shared = nullptr;
  std::size_t shared_bytes = 0;

  Thread &current() { return threads[static_cast<std::size_t>(running)]; }
};

extern Config config;
extern Block block;

std::string name_thread(int number);  // of the block that runs

// What a checking build does at each access; null pointers without one.
struct Checks {
  void (*begin_launch)() = nullptr;
  void (*begin_block)() = nullptr;
  void (*access)(const void *address, int bytes, bool write, const void *caller) = nullptr;
  void (*start_copy)(const void *shared, int bytes) = nullptr;
};
extern Checks checks;

// In place of the machine: run a launch elsewhere. Non-zero: it failed.
using Elsewhere = int (*)(const char *kernel, const Launched *what);
extern Elsewhere elsewhere;

void run_grid(dim3 grid, dim3 block_size, std::size_t shared, const std::function<void()> &thread);

}  // namespace cuda_host
