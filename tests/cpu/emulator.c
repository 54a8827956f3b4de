/* Calls an emitted program on arrays that lie in a file.

   usage: program FILE THREADS OFFSET...

   The file is mapped; the offsets of the arrays in it become the program's table of pointers, a
   negative one a null pointer. What the program writes is in the file when this one ends. */

#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

void tilth_run(void *pool, void **table);
__attribute__((weak)) void tilth_worker(void *pool, int tid);

static _Alignas(64) char pool[512];

static void *work(void *tid) {
    tilth_worker(pool, (int)(intptr_t)tid);
    return NULL;
}

int main(int count, char **arguments) {
    struct stat about;
    int file = open(arguments[1], O_RDWR);
    if (file < 0 || fstat(file, &about)) {
        perror(arguments[1]);
        return 1;
    }
    char *memory = mmap(NULL, about.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    void **table = calloc(count, sizeof *table);
    for (int i = 3; i < count; i++) {
        long offset = atol(arguments[i]);
        table[i - 3] = offset < 0 ? NULL : memory + offset;
    }
    for (intptr_t tid = 1; tid < atol(arguments[2]); tid++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, (void *)tid);
    }
    tilth_run(pool, table);
    return 0;
}
