// Runs the tests; first says which ISAs this CPU can run, since the others are left out, and which one it chooses.
// scripts/qemu_test.py reads that.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <stdio.h>

#include <algorithm>

#include "support.h"

int main(int argc, char** argv) {
  printf("CPU: %s\n", ek_cpu_name());
  std::vector<const ek_isa*> tested = edgekern::test::tested_isas();
  for (size_t i = 0; i < ek_isa_count(); ++i) {
    const ek_isa* isa = ek_isa_at(i);
    char missing[256];
    if (ek_isa_missing(isa, missing, sizeof(missing)) != 0) {
      printf("  %-12s SKIPPED: this CPU lacks %s\n", ek_isa_name(isa), missing);
    } else if (std::find(tested.begin(), tested.end(), isa) == tested.end()) {
      printf("  %-12s LEFT OUT: EDGEKERN_TEST_ISAS does not name it\n", ek_isa_name(isa));
    } else {
      printf("  %-12s tested\n", ek_isa_name(isa));
    }
  }
  const ek_isa* chosen = nullptr;
  printf("default: %s\n",
         ek_isa_default(&chosen) == EK_OK ? ek_isa_name(chosen) : "none: EDGEKERN_ISA names what this CPU cannot run");
  doctest::Context context(argc, argv);
  int result = context.run();
  fflush(stdout);
  return result;
}
