// Network output -> the boxes that count, as decode.py finds them on the CPU.
// select_*: one thread per box of the output keeps those over their class's threshold.
// suppress: one block per picture sorts them, drops overlaps of one class, writes the answer.
#include "request.cuh"

static __device__ bool is_finite(float value)
{
    return value - value == 0.0f;  // a NaN for what is infinite or no number
}

static __device__ void append(Picture &picture, Candidate *candidates, const Candidate &candidate)
{
    const int place = atomicAdd(&picture.candidates, 1);  // counts those that find no place, too
    if (place < MAX_CANDIDATES)
        candidates[place] = candidate;
}

// output: (batch, 4 + classes, anchors): centre x, y, width, height, a score per class.
extern "C" __global__ void select_anchors(
    const output_t *output, unsigned char *upload, Candidate *candidates, int classes, int anchors)
{
    Request *request = (Request *)upload;
    const int column = blockIdx.x * blockDim.x + threadIdx.x;
    const int index = blockIdx.y;
    if (column >= anchors || index >= request->pictures)
        return;
    Picture &picture = request->picture[index];
    const output_t *at = output + (long long)index * (4 + classes) * anchors + column;
    float best = FROM_OUTPUT(at[4LL * anchors]);
    int class_id = 0;
    bool broken = best != best;
    for (int k = 1; k < classes; k++) {
        const float score = FROM_OUTPUT(at[(4LL + k) * anchors]);
        broken |= score != score;
        if (score > best) {
            best = score;
            class_id = k;
        }
    }
    if (broken || !is_finite(best)) {
        atomicOr(&picture.flags, BAD_SCORE);
        return;
    }
    if (best < request->thresholds[class_id] || best <= 0.0f)
        return;
    const float x = FROM_OUTPUT(at[0]);
    const float y = FROM_OUTPUT(at[anchors]);
    const float half_width = FROM_OUTPUT(at[2LL * anchors]) / 2;
    const float half_height = FROM_OUTPUT(at[3LL * anchors]) / 2;
    const Candidate found = {x - half_width, y - half_height, x + half_width, y + half_height,
                             best,           class_id,        column};
    append(picture, candidates + (long long)index * MAX_CANDIDATES, found);
}

// output: (batch, boxes, 6): left, top, right, bottom, score, class.
extern "C" __global__ void select_boxes(
    const output_t *output, unsigned char *upload, Candidate *candidates, int boxes)
{
    Request *request = (Request *)upload;
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    const int index = blockIdx.y;
    if (row >= boxes || index >= request->pictures)
        return;
    Picture &picture = request->picture[index];
    const output_t *at = output + ((long long)index * boxes + row) * 6;
    const float score = FROM_OUTPUT(at[4]);
    const float named = FROM_OUTPUT(at[5]);
    if (!is_finite(score)) {
        atomicOr(&picture.flags, BAD_SCORE);
        return;
    }
    // Written so that a NaN fails; -0.5 is class 0 as truncation makes it on the CPU.
    if (!(named > -1.0f && named < request->classes)) {
        atomicOr(&picture.flags, BAD_CLASS);
        atomicMax(&picture.worst_class, named >= request->classes && named < 1e9f ? (int)named : 0);
        return;
    }
    const int class_id = (int)named;
    if (score < request->thresholds[class_id])
        return;
    const Candidate found = {FROM_OUTPUT(at[0]), FROM_OUTPUT(at[1]), FROM_OUTPUT(at[2]),
                             FROM_OUTPUT(at[3]), score,              class_id,
                             row};
    append(picture, candidates + (long long)index * MAX_CANDIDATES, found);
}

static __device__ bool comes_before(const Candidate &a, const Candidate &b)
{
    return a.score > b.score || (a.score == b.score && a.index < b.index);
}

// Whether they overlap more than the limit, decided as cv2.dnn.NMSBoxes does: in double where
// float is too close to tell.
static __device__ bool overlap(const Candidate &a, const Candidate &b, float limit)
{
    const float left = a.left > b.left ? a.left : b.left;
    const float top = a.top > b.top ? a.top : b.top;
    const float right = a.right < b.right ? a.right : b.right;
    const float bottom = a.bottom < b.bottom ? a.bottom : b.bottom;
    const float area_a = (a.right - a.left) * (a.bottom - a.top);
    const float area_b = (b.right - b.left) * (b.bottom - b.top);
    if (area_a + area_b <= 0.0f)
        return limit < 1.0f;
    const float shared = right > left && bottom > top ? (right - left) * (bottom - top) : 0.0f;
    const float iou = shared / (area_a + area_b - shared);
    if (iou > limit + 1e-4f)
        return true;
    if (!(iou >= limit - 1e-4f) || shared == 0.0f)
        return false;
    const double width_a = a.right - a.left, height_a = a.bottom - a.top;
    const double width_b = b.right - b.left, height_b = b.bottom - b.top;
    const double right_a = a.left + width_a, right_b = b.left + width_b;
    const double bottom_a = a.top + height_a, bottom_b = b.top + height_b;
    const double exact_shared = ((right_a < right_b ? right_a : right_b) - left) *
                                ((bottom_a < bottom_b ? bottom_a : bottom_b) - top);
    const double all = width_a * height_a + width_b * height_b - exact_shared;
    return 1.0f - (float)(1.0 - exact_shared / all) > limit;
}

// output: as of select_anchors, which holds the scores of all classes. classes: 0 where the output is
// that of select_boxes, whose boxes are one cone each and have the score of the best class alone.
extern "C" __global__ void suppress(
    const output_t *output, const unsigned char *upload, const Candidate *candidates,
    Answer *answers, int classes, int anchors)
{
    __shared__ Candidate sorted[MAX_CANDIDATES];
    __shared__ unsigned char dropped[MAX_CANDIDATES];
    __shared__ int kept, flags;
    const Request *request = (const Request *)upload;
    const int index = blockIdx.x;
    if (index >= request->pictures)
        return;
    const Picture picture = request->picture[index];
    const int count = picture.candidates < MAX_CANDIDATES ? picture.candidates : MAX_CANDIDATES;
    candidates += (long long)index * MAX_CANDIDATES;
    output += (long long)index * (4 + classes) * anchors;
    Answer &answer = answers[index];

    if (threadIdx.x == 0) {
        kept = 0;
        flags = picture.flags;
    }
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        const Candidate mine = candidates[i];
        int rank = 0;
        for (int j = 0; j < count; j++)
            rank += comes_before(candidates[j], mine);
        sorted[rank] = mine;
        dropped[rank] = 0;
    }
    __syncthreads();
    for (int i = 0; classes && i < count; i++) {
        if (!dropped[i])
            for (int j = i + 1 + threadIdx.x; j < count; j += blockDim.x)
                if (sorted[j].class_id == sorted[i].class_id &&
                    overlap(sorted[i], sorted[j], request->nms_iou))
                    dropped[j] = 1;
        __syncthreads();
    }
    for (int i = threadIdx.x; i < count; i += blockDim.x) {
        if (dropped[i])
            continue;
        int place = 0;
        for (int j = 0; j < i; j++)
            place += !dropped[j];
        const Candidate &one = sorted[i];
        if (!is_finite(one.left) || !is_finite(one.top) || !is_finite(one.right) ||
            !is_finite(one.bottom))
            atomicOr(&flags, BAD_BOX);
        if (place < MAX_KEPT) {
            Box box = {one.left, one.top, one.right, one.bottom, one.score, one.class_id, {}};
            for (int k = 0; k < classes; k++)
                box.class_score[k] = FROM_OUTPUT(output[(4LL + k) * anchors + one.index]);
            answer.boxes[place] = box;
        }
        atomicAdd(&kept, 1);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        answer.candidates = picture.candidates;
        answer.kept = kept;
        answer.flags = flags;
        answer.worst_class = picture.worst_class;
        answer.scored = classes;
    }
}
