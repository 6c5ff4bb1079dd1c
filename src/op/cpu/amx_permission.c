// Whether this process may use the tile registers of AMX: the processor has them, the operating system saves them, and
// it has granted them, which a process has to ask for. (No instructions of AMX here: this runs on every processor.)
#include <cpuid.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "op/cpu/kernels.h"

#define AMX_BF16 (1u << 22)   // leaf 7, edx
#define AMX_TILE (1u << 24)
#define OSXSAVE (1u << 27)   // leaf 1, ecx
#define XCR0_TILES (3u << 17)
#define REQUEST_PERMISSION 0x1023   // arch_prctl: ARCH_REQ_XCOMP_PERM
#define TILE_DATA 18

static const char *missing;   // NULL: granted
static pthread_once_t asked = PTHREAD_ONCE_INIT;

static void ask(void) {
    unsigned a, b, c, d;
    if (cpu_isa_best() != ISA_AVX512 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & AMX_BF16) == 0 ||
        (d & AMX_TILE) == 0) {
        missing = "this CPU has no AMX-BF16";
        return;
    }
    uint32_t low = 0, high = 0;
    if (__get_cpuid(1, &a, &b, &c, &d) && (c & OSXSAVE) != 0) {
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    }
    if ((low & XCR0_TILES) != XCR0_TILES) {
        missing = "the operating system does not save the tile registers of AMX";
    } else if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0) {
        missing = "the operating system does not grant the tile registers of AMX";
    }
}

const char *cpu_amx_missing(void) {
    CHECK(pthread_once(&asked, ask) == 0, "pthread_once");
    return missing;
}
