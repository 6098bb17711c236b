/* A wall clock that can be moved: LD_PRELOAD this, and CHAOS_CLOCK names a file of one int64, the seconds to add.
 *
 * Monotonic clocks stay as they are. Whoever waits until a wall time waits until that time on the moved clock, as it
 * is when the wait begins. libfaketime does this too, but its version in Debian 12 breaks sleeps of Python 3.11.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *moved;
static long (*real_syscall)(long, ...);
static int (*real_cond)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
static int (*real_cond_clock)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
static int (*real_sem)(sem_t *, const struct timespec *);
static int (*real_sem_clock)(sem_t *, clockid_t, const struct timespec *);
static int (*real_sleep)(clockid_t, int, const struct timespec *, struct timespec *);
static int (*real_clock)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    if (real_clock) return;
    real_syscall = dlsym(RTLD_NEXT, "syscall");
    real_cond = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
    if (!real_cond) real_cond = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    real_cond_clock = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
    real_sem = dlsym(RTLD_NEXT, "sem_timedwait");
    real_sem_clock = dlsym(RTLD_NEXT, "sem_clockwait");
    real_sleep = dlsym(RTLD_NEXT, "clock_nanosleep");
    const char *name = getenv("CHAOS_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *page = mmap(NULL, sizeof *moved, PROT_READ, MAP_SHARED, file, 0);
        if (page != MAP_FAILED) moved = page;
        close(file);
    }
    real_clock = dlsym(RTLD_NEXT, "clock_gettime");
}

static int64_t shift(void) { return moved ? *moved : 0; }

static int is_wall(clockid_t clock) { return clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE; }

/* The machine's own time of a time on the moved clock; never before 1970, which the kernel refuses. */
static struct timespec true_time(const struct timespec *time) {
    struct timespec out = *time;
    out.tv_sec = out.tv_sec > shift() ? out.tv_sec - shift() : 0;
    return out;
}

int clock_gettime(clockid_t clock, struct timespec *out) {
    if (!real_clock) begin();
    int code = real_clock(clock, out);
    if (code == 0 && is_wall(clock)) out->tv_sec += shift();
    return code;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone) {
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

/* Whether a condition variable waits on the wall clock is known to it alone; seconds since the start are fewer. */
int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    if (!real_clock) begin();
    if (until->tv_sec < 1000000000) return real_cond(cond, mutex, until);
    struct timespec when = true_time(until);
    return real_cond(cond, mutex, &when);
}

int pthread_cond_clockwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex, clockid_t clock,
                           const struct timespec *restrict until) {
    if (!real_clock) begin();
    struct timespec when = is_wall(clock) ? true_time(until) : *until;
    return real_cond_clock(cond, mutex, clock, &when);
}

int sem_timedwait(sem_t *restrict sem, const struct timespec *restrict until) {
    if (!real_clock) begin();
    struct timespec when = true_time(until);
    return real_sem(sem, &when);
}

int sem_clockwait(sem_t *restrict sem, clockid_t clock, const struct timespec *restrict until) {
    if (!real_clock) begin();
    struct timespec when = is_wall(clock) ? true_time(until) : *until;
    return real_sem_clock(sem, clock, &when);
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *until, struct timespec *left) {
    if (!real_clock) begin();
    struct timespec when = is_wall(clock) && (flags & TIMER_ABSTIME) ? true_time(until) : *until;
    return real_sleep(clock, flags, &when, left);
}

/* Abseil, which is inside Ray, waits by the futex itself. */
long syscall(long number, ...) {
    if (!real_clock) begin();
    __builtin_va_list list;
    __builtin_va_start(list, number);
    long a[6];
    for (int i = 0; i < 6; i++) a[i] = __builtin_va_arg(list, long);
    __builtin_va_end(list);
    struct timespec when;
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME) && a[3]) {
        when = true_time((const struct timespec *)a[3]);
        a[3] = (long)&when;
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
