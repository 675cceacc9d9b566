// What newer C runtimes have and older ones lack, defined here, so that the libraries load on systems from glibc 2.28
// and GCC 8 on (manylinux_2_28), whichever g++ compiles them. The definitions are hidden: no other library sees them.
//
// SPDX-License-Identifier: Apache-2.0

#include <new>
#include <sstream>

#define SAGE_HIDDEN __attribute__((visibility("hidden"), used))

extern "C" {

// glibc 2.32 says here whether the process has one thread only, and std::shared_ptr then counts without atomic
// instructions. 0 is always right. The name is asm's, since glibc's header declares the real one as visible.
extern char single_threaded asm("__libc_single_threaded");
SAGE_HIDDEN char single_threaded = 0;

// GCC 9 made the default constructors functions of their own (GLIBCXX_3.4.26). Before, they were the ones below.
void make_stringstream(std::stringstream *) asm(
    "_ZNSt7__cxx1118basic_stringstreamIcSt11char_traitsIcESaIcEEC1Ev");
SAGE_HIDDEN void make_stringstream(std::stringstream *self) {
  new (self) std::stringstream(std::ios_base::in | std::ios_base::out);
}

void make_ostringstream(std::ostringstream *) asm(
    "_ZNSt7__cxx1119basic_ostringstreamIcSt11char_traitsIcESaIcEEC1Ev");
SAGE_HIDDEN void make_ostringstream(std::ostringstream *self) {
  new (self) std::ostringstream(std::ios_base::out);
}

}  // extern "C"
