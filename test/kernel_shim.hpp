// Lets g++ compile the CUDA kernels as C++: loops over the grid, real threads within a block.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

struct Dim {
    int x = 0, y = 0, z = 0;
};
static thread_local Dim threadIdx;
static Dim blockIdx, blockDim;
static std::barrier<> *block_barrier;

#define __global__
#define __device__
#define __shared__ static
#define __syncthreads() block_barrier->arrive_and_wait()

static int atomicAdd(int *at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_RELAXED); }
static int atomicOr(int *at, int value) { return __atomic_fetch_or(at, value, __ATOMIC_RELAXED); }
static int atomicMax(int *at, int value)
{
    int old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old < value && !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

static float from_half(unsigned short half)
{
    const int exponent = half >> 10 & 31, mantissa = half & 1023;
    const float value = exponent == 31 ? (mantissa ? NAN : INFINITY)
                        : exponent     ? std::ldexp(1024 + mantissa, exponent - 25)
                                       : std::ldexp(mantissa, -24);
    return half >> 15 ? -value : value;
}

static unsigned short to_half(float value)  // of what a network's input holds: 0..1
{
    int exponent;
    std::frexp(value, &exponent);
    if (value == 0)
        return 0;
    if (exponent < -13)
        return (unsigned short)std::nearbyint(std::ldexp(value, 24));
    const int mantissa = (int)std::nearbyint(std::ldexp(value, 11 - exponent));
    return (unsigned short)(((exponent + 14) << 10) + mantissa - 1024);
}

// Runs every thread of a grid, one after the other: for kernels without barriers.
template <class Kernel> void loop_over_grid(Dim grid, Dim block, Kernel kernel)
{
    blockDim = block;
    for (blockIdx.z = 0; blockIdx.z < grid.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < grid.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < grid.x; blockIdx.x++)
                for (threadIdx.y = 0; threadIdx.y < block.y; threadIdx.y++)
                    for (threadIdx.x = 0; threadIdx.x < block.x; threadIdx.x++)
                        kernel();
}

// Runs the threads of each block at once, so that barriers and races are real.
template <class Kernel> void run_blocks(int blocks, int threads, Kernel kernel)
{
    blockDim = {threads, 1, 1};
    for (int block = 0; block < blocks; block++) {
        blockIdx = {block, 0, 0};
        std::barrier<> barrier(threads);
        block_barrier = &barrier;
        std::vector<std::thread> running;
        for (int index = 0; index < threads; index++)
            running.emplace_back([=] {
                threadIdx = {index, 0, 0};
                kernel();
            });
        for (auto &thread : running)
            thread.join();
    }
}

#include "letterbox.cu"
#include "decode.cu"

static int blocks_for(int count, int size) { return (count + size - 1) / size; }

extern "C" void run_letterbox(
    const unsigned char *upload, input_t *network, int batch, int width, int height, int rgb, float scale)
{
    loop_over_grid({blocks_for(width, 32), blocks_for(height, 8), batch}, {32, 8, 1},
                   [=] { letterbox(upload, network, width, height, rgb, scale); });
}

extern "C" void run_select_anchors(
    const output_t *output, unsigned char *upload, Candidate *candidates, int batch, int classes, int boxes)
{
    loop_over_grid({blocks_for(boxes, 256), batch, 1}, {256, 1, 1},
                   [=] { select_anchors(output, upload, candidates, classes, boxes); });
}

extern "C" void run_select_boxes(
    const output_t *output, unsigned char *upload, Candidate *candidates, int batch, int boxes)
{
    loop_over_grid({blocks_for(boxes, 256), batch, 1}, {256, 1, 1},
                   [=] { select_boxes(output, upload, candidates, boxes); });
}

extern "C" void run_suppress(
    const output_t *output, const unsigned char *upload, const Candidate *candidates, Answer *answers, int batch,
    int classes, int boxes, int threads)
{
    run_blocks(batch, threads, [=] { suppress(output, upload, candidates, answers, classes, boxes); });
}

extern "C" int sizes(int which)
{
    const int all[] = {sizeof(Picture), sizeof(Request), sizeof(Candidate), sizeof(Box), sizeof(Answer),
                       MAX_BATCH, MAX_PATCHES, MAX_CLASSES, MAX_CANDIDATES, MAX_KEPT};
    return all[which];
}
