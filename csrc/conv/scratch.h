// Memory that a thread keeps between calls: fresh memory would fault its pages in at every call.
#pragma once

#include <cstddef>

namespace pyphase::conv {

// What a thread's memory is for: its own tasks, or what all tasks of the calls it makes share.
enum class Scratch { task, shared };

// At least `bytes`, aligned to 64, good until this thread's next such call. Throws std::bad_alloc.
void *scratch(std::size_t bytes, Scratch use = Scratch::task);

}  // namespace pyphase::conv
