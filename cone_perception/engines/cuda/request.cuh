// What travels to the GPU in front of the pictures, and what comes back. request.py has the same
// structs for numpy. Every member has four bytes, so there is no padding to disagree about.
#pragma once

#ifdef __CUDACC__
static __device__ unsigned short to_half(float value)
{
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

static __device__ float from_half(unsigned short half)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}
#endif

#ifdef INPUT_HALF
typedef unsigned short input_t;
#define TO_INPUT to_half
#else
typedef float input_t;
#define TO_INPUT float
#endif

#ifdef OUTPUT_HALF
typedef unsigned short output_t;
#define FROM_OUTPUT from_half
#else
typedef float output_t;
#define FROM_OUTPUT float
#endif

enum { MAX_BATCH = 4, MAX_PATCHES = 2, MAX_CLASSES = 16, MAX_CANDIDATES = 1024, MAX_KEPT = 256 };

enum Format { BGR = 0, RGB = 1, BGRA = 2, RGBA = 3, MONO = 4, UYVY = 5, YUYV = 6 };

enum Flag { BAD_SCORE = 1, BAD_CLASS = 2, BAD_BOX = 4 };

struct Rectangle {
    int left, top, right, bottom;  // right and bottom lie behind the last pixel
};

struct Patch {
    Rectangle source;  // of the picture that the camera sent
    Rectangle place;   // of the network's input; empty where there is no such patch
};

struct Picture {  // one of the network's
    int offset;  // of the first row of its source, in bytes from the start of the request
    int step;    // bytes per row
    int format;  // a Format
    Patch patches[MAX_PATCHES];
    int candidates, flags, worst_class;  // come as zero, counted by the kernels
};

struct Request {
    int pictures;
    int classes;
    float nms_iou;
    float thresholds[MAX_CLASSES];
    Picture picture[MAX_BATCH];
};

struct Candidate {
    float left, top, right, bottom;  // network pixels
    float score;
    int class_id;
    int index;  // column of the output it came from: breaks ties as the CPU does
};

struct Box {
    float left, top, right, bottom;
    float score;
    int class_id;
    float class_score[MAX_CLASSES];
};

struct Answer {
    int candidates, kept, flags, worst_class;
    int scored;           // classes whose scores the boxes hold; 0: only the best one's is known
    Box boxes[MAX_KEPT];  // best score first
};
