// Which instruction set's kernels serve this machine.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace pyphase::conv {

// The kernels in use: the best that the machine runs, or those that the environment variable
// PYPHASE_ISA names. Throws std::invalid_argument if it names none, or none that run here.
const Kernels &kernels();

// The names that PYPHASE_ISA may have here.
std::vector<std::string> instruction_sets();

}  // namespace pyphase::conv
