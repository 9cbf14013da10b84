/* A clock that is set back by an hour after n looks at it, preloaded into the process under drill; tells at its end how
   often it was looked at, on a line of the file that CLOCK_LOOKS names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
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

__attribute__((destructor)) static void tell(void) {
    const char *path = getenv("CLOCK_LOOKS");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (!file) return;
    fprintf(file, "%ld\n", looks);
    fclose(file);
}
