/* A clock that is set back by an hour at the n-th look at it: preloaded into the process under drill. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static long looks;

int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int outcome = real(clock, now);
    const char *after = getenv("CLOCK_BACK_AFTER");
    if (clock == CLOCK_REALTIME && after && __sync_fetch_and_add(&looks, 1) >= atol(after)) now->tv_sec -= 3600;
    return outcome;
}
