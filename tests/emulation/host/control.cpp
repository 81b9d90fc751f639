// What a test sets of the machine, in C: order of turns, and where launches go.
#include "machine.h"

extern "C" {

void emulation_turns(int turns, unsigned seed) {
  cuda_host::config.turns = static_cast<cuda_host::Turns>(turns);
  cuda_host::config.seed = seed;
}
void emulation_shared_limit(int bytes) { cuda_host::config.shared_limit = bytes; }
void emulation_elsewhere(cuda_host::Elsewhere run) { cuda_host::elsewhere = run; }

}  // extern "C"
