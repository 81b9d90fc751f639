// What a test sets of the machine, in C: order of turns, where launches go, the fault that is on.
#include "machine.h"

namespace cuda_host {

static int fault = 0;
int mutant() { return fault; }

}  // namespace cuda_host

extern "C" {

void emulation_mutant(int number) { cuda_host::fault = number; }

void emulation_turns(int turns, unsigned seed) {
  cuda_host::config.turns = static_cast<cuda_host::Turns>(turns);
  cuda_host::config.seed = seed;
}
void emulation_shared_limit(int bytes) { cuda_host::config.shared_limit = bytes; }
void emulation_elsewhere(cuda_host::Elsewhere run) { cuda_host::elsewhere = run; }

}  // extern "C"
