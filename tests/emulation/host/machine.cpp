#include "machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>
#include <random>
#include <stdexcept>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace cuda_host {

Config config;
Block block;
Checks checks;

namespace {

Stacks stacks;
Context scheduler;
const std::function<void()> *body;
std::string failure;
int alive, waiting;

void yield() { switch_context(block.current().context, scheduler); }

void enter_thread() {
  (*body)();
  Thread &self = block.current();
  if (!self.groups.empty() || !self.open.empty()) fail("a thread exits with cp.async in flight");
  self.state = State::done;
  --alive;
  yield();
  __builtin_trap();
}

void resume(int number) {
  block.running = number;
  Thread &thread = block.current();
  threadIdx = thread.index;
  switch_context(scheduler, thread.context);
  block.running = -1;
  if (!failure.empty()) throw std::runtime_error(failure);
}

std::string where(const Thread &thread) {
  const std::string who = name_thread(thread.number);
  if (thread.state == State::done) return who + " has exited";
  return who + " waits at " + thread.site.file + ":" + std::to_string(thread.site.line);
}

bool same_place(const Thread &a, const Thread &b) {
  return a.state == b.state && a.site.line == b.site.line &&
         (a.site.file == b.site.file || std::strcmp(a.site.file, b.site.file) == 0);
}

// Two threads that keep each other waiting.
std::string two_places() {
  const Thread &first = *std::find_if(block.threads.begin(), block.threads.end(),
                                      [](const Thread &t) { return t.state != State::done; });
  for (const Thread &other : block.threads) {
    if (!same_place(first, other)) return where(first) + ", " + where(other);
  }
  return where(first);
}

void release_barrier() {
  if (alive != static_cast<int>(block.threads.size())) {
    throw std::runtime_error("threads exited while others wait at a barrier: " + two_places());
  }
  for (const Thread &thread : block.threads) {
    if (!same_place(block.threads[0], thread)) {
      throw std::runtime_error("barrier divergence: " + two_places());
    }
  }
  waiting = 0;
  ++block.epoch;
  for (Thread &thread : block.threads) thread.state = State::ready;
}

void begin_block(const std::function<void()> &thread_body) {
  const int count = static_cast<int>(block.threads.size());
  body = &thread_body;
  alive = count;
  waiting = 0;
  failure.clear();
  block.epoch = 1;
  block.warp_epochs.assign(static_cast<std::size_t>(count + 31) / 32, 1);
  std::memset(block.shared, 0xff, (block.shared_bytes + 15) / 16 * 16);  // NaN in every float type
  for (int i = 0; i < count; ++i) {
    Thread &thread = block.threads[static_cast<std::size_t>(i)];
    const unsigned n = static_cast<unsigned>(i);
    thread.index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / (blockDim.x * blockDim.y)};
    thread.number = i;
    thread.state = State::ready;
    thread.groups.clear();
    thread.open.clear();
    prepare(thread.context, stacks.top(i), enter_thread);
  }
  if (checks.begin_block) checks.begin_block();
}

void run_block(const std::function<void()> &thread_body) {
  begin_block(thread_body);
  const int count = static_cast<int>(block.threads.size());
  std::vector<int> turns(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i) {
    turns[static_cast<std::size_t>(i)] = config.turns == Turns::backward ? count - 1 - i : i;
  }
  std::mt19937 random(config.seed * 7919u + static_cast<unsigned>(block.number));
  while (alive) {
    if (config.turns == Turns::shuffled) std::shuffle(turns.begin(), turns.end(), random);
    bool any = false;
    for (const int i : turns) {
      if (block.threads[static_cast<std::size_t>(i)].state == State::ready) {
        any = true;
        resume(i);
      }
    }
    if (alive && waiting == alive) {
      release_barrier();
    } else if (!any) {
      throw std::runtime_error("deadlock: " + two_places());
    }
  }
}

// The block's shared memory ends where a page begins that cannot be touched.
class SharedMemory {
 public:
  explicit SharedMemory(std::size_t bytes) {
    const std::size_t pages = (bytes + kPage - 1) / kPage * kPage;
    room_ = pages + 2 * kPage;
    void *memory = mmap(nullptr, room_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    memory_ = static_cast<char *>(memory);
    if (pages) mprotect(memory_ + kPage, pages, PROT_READ | PROT_WRITE);
    block.shared = memory_ + kPage + pages - (bytes + 15) / 16 * 16;
    block.shared_bytes = bytes;
  }
  SharedMemory(const SharedMemory &) = delete;
  ~SharedMemory() { munmap(memory_, room_); }

 private:
  static constexpr std::size_t kPage = 4096;
  char *memory_;
  std::size_t room_;
};

}  // namespace

std::string name_thread(int number) {
  const uint3 &t = block.threads[static_cast<std::size_t>(number)].index;
  return "block " + std::to_string(block.number) + " thread (" + std::to_string(t.x) + "," +
         std::to_string(t.y) + "," + std::to_string(t.z) + ")";
}

void fail(const char *message) {
  failure = name_thread(block.running) + ": " + message;
  yield();
  __builtin_trap();
}

int lane() { return block.running & 31; }

void *shared_memory() { return block.shared; }

void barrier(Site site) {
  Thread &self = block.current();
  self.state = State::at_barrier;
  self.site = site;
  ++waiting;
  yield();
}

void meet(std::uint32_t mask, void *arguments, Work work, Order order, Site site) {
  Thread &self = block.current();
  const int first = self.number & ~31;
  const int lanes = std::min(32, static_cast<int>(block.threads.size()) - first);
  if (lanes < 32) mask &= (1u << lanes) - 1;
  if (!(mask >> lane() & 1)) fail("a warp operation's mask leaves its caller out");
  if (order == Order::memory && mask != (lanes < 32 ? (1u << lanes) - 1 : ~0u)) {
    fail("__syncwarp() of a part of a warp is not imitated");
  }
  self.state = State::at_meeting;
  self.mask = mask;
  self.work = work;
  self.arguments = arguments;
  self.site = site;
  Thread *const warp = &block.threads[static_cast<std::size_t>(first)];
  const Thread &last = warp[31 - std::countl_zero(mask)];
  if (last.state != State::at_meeting && same_place(warp[std::countr_zero(mask)], self)) {
    yield();  // what most find, since threads get their turn in order
    return;
  }
  void *all[32] = {};
  for (int i = 0; i < lanes; ++i) {
    if (!(mask >> i & 1)) continue;
    if (warp[i].state != State::at_meeting) {
      yield();
      return;
    }
    if (warp[i].mask != mask || warp[i].work != work || !same_place(warp[i], self)) {
      fail(("warp divergence: " + where(self) + ", " + where(warp[i])).c_str());
    }
    all[i] = warp[i].arguments;
  }
  if (work) work(all);
  if (order == Order::memory) ++block.warp_epochs[static_cast<std::size_t>(self.warp())];
  for (int i = 0; i < lanes; ++i) {
    if (mask >> i & 1) warp[i].state = State::ready;
  }
}

void run_grid(dim3 grid, dim3 block_size, std::size_t shared, const std::function<void()> &thread) {
  const int count = static_cast<int>(block_size.x * block_size.y * block_size.z);
  gridDim = grid;
  blockDim = block_size;
  block.threads.assign(static_cast<std::size_t>(count), Thread{});
  stacks.reserve(count);
  const SharedMemory memory(shared);
  if (checks.begin_launch) checks.begin_launch();
  block.number = 0;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = {x, y, z};
        run_block(thread);
        ++block.number;
      }
    }
  }
}

}  // namespace cuda_host
