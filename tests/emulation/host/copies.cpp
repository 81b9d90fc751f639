// Single accesses and asynchronous copies. A copy's bytes arrive as late as the program allows: at
// the wait for its group. So a wait for too little reads old bytes.
#include <cstring>

#include "machine.h"

namespace cuda_host {
namespace {

void require_aligned(const void *address, int bytes) {
  if (reinterpret_cast<std::uintptr_t>(address) % static_cast<unsigned>(bytes)) {
    fail("misaligned vector access");
  }
}

void check(const void *address, int bytes, bool write, const void *caller) {
  if (checks.access) checks.access(address, bytes, write, caller);
}

}  // namespace

void load(void *value, const void *address, int bytes) {
  require_aligned(address, bytes);
  check(address, bytes, false, __builtin_return_address(0));
  std::memcpy(value, address, static_cast<std::size_t>(bytes));
}

void store(void *address, const void *value, int bytes) {
  require_aligned(address, bytes);
  check(address, bytes, true, __builtin_return_address(0));
  std::memcpy(address, value, static_cast<std::size_t>(bytes));
}

void copy_async(void *shared, const void *source, int bytes, int valid_bytes) {
  require_aligned(shared, bytes);
  require_aligned(source, bytes);
  char *const to = static_cast<char *>(shared);
  if (to < block.shared || to + bytes > block.shared + block.shared_bytes) {
    fail("cp.async: its destination is out of shared memory's bounds");
  }
  block.current().open.push_back({to, static_cast<const char *>(source), bytes, valid_bytes});
  check(to, bytes, true, __builtin_return_address(0));
  if (checks.start_copy) checks.start_copy(to, bytes);
}

void commit_copies() {
  Thread &self = block.current();
  self.groups.push_back(std::move(self.open));
  self.open.clear();
}

void wait_copies(int pending) {
  auto &groups = block.current().groups;
  const void *const caller = __builtin_return_address(0);
  while (static_cast<int>(groups.size()) > pending) {
    for (const Copy &copy : groups.front()) {
      if (copy.valid) check(copy.from, copy.valid, false, caller);
      check(copy.to, copy.bytes, true, caller);
      std::memcpy(copy.to, copy.from, static_cast<std::size_t>(copy.valid));
      std::memset(copy.to + copy.valid, 0, static_cast<std::size_t>(copy.bytes - copy.valid));
    }
    groups.erase(groups.begin());
  }
  // Empty groups may be left open at exit.
  while (!groups.empty() && groups.back().empty()) groups.pop_back();
}

}  // namespace cuda_host
