// Every kernel on memory of just the size it may touch: to be compiled with a sanitiser, which ends
// the program at a read or write outside (address) or at a race between threads (thread).
#include <cstdio>
#include <random>

#include "kernel_shim.hpp"

static const int WIDTH = 64, HEIGHT = 32, BYTES_PER_PIXEL[] = {3, 3, 4, 4, 1, 2, 2};

// The whole picture, and its corners in two patches each: one upload, every place of a batch.
static void check_letterbox(int width, int height, int format, int padding)
{
    const int row = width * BYTES_PER_PIXEL[format], step = row + padding;
    const int length = (height - 1) * step + row;
    std::vector<unsigned char> upload(sizeof(Request) + length);  // nothing behind the last pixel
    Request *request = (Request *)upload.data();
    request->pictures = MAX_BATCH;
    const float scale = std::fmin((float)WIDTH / width, (float)HEIGHT / height);
    const int inner_width = std::fmax(1, std::rint(width * scale));
    const int inner_height = std::fmax(1, std::rint(height * scale));
    const int left = (WIDTH - inner_width) / 2, top = (HEIGHT - inner_height) / 2;
    const Patch whole = {{0, 0, width, height}, {left, top, left + inner_width, top + inner_height}};
    request->picture[0] = {(int)sizeof(Request), step, format, {whole, {}}, 0, 0, 0};
    const int x = width / 2, y = height / 2;
    const Rectangle corners[][2] = {{{0, 0, x + 1, y + 1}, {x, 0, width, y + 1}},
                                    {{0, y, x + 1, height}, {x, y, width, height}},
                                    {{width - 1, height - 1, width, height}, {0, height - 1, width, height}}};
    for (int i = 1; i < MAX_BATCH; i++)
        request->picture[i] = {(int)sizeof(Request), step, format,
                               {{corners[i - 1][0], {0, 0, WIDTH, HEIGHT / 2}},
                                {corners[i - 1][1], {1, HEIGHT / 2, WIDTH - 1, HEIGHT}}}, 0, 0, 0};
    std::vector<input_t> network(MAX_BATCH * 3 * WIDTH * HEIGHT);
    run_letterbox(upload.data(), network.data(), MAX_BATCH, WIDTH, HEIGHT, 1, 1 / 255.0f);
}

static void check_decode(int boxes, bool anchors)
{
    const int classes = 5, rows = anchors ? 4 + classes : 6;
    std::mt19937 random(boxes);
    std::uniform_real_distribution<float> any(0, 1);
    std::vector<output_t> output(MAX_BATCH * rows * boxes);
    for (auto &value : output)
        value = any(random);
    if (!anchors)
        for (int i = 0; i < MAX_BATCH * boxes; i++)
            output[i * 6 + 5] = i % classes;
    std::vector<unsigned char> upload(sizeof(Request));
    Request *request = (Request *)upload.data();
    request->pictures = MAX_BATCH;
    request->classes = classes;
    request->nms_iou = 0.5f;
    for (int k = 0; k < classes; k++)
        request->thresholds[k] = 0.3f;
    std::vector<Candidate> candidates(MAX_BATCH * MAX_CANDIDATES);
    std::vector<Answer> answers(MAX_BATCH);
    if (anchors)
        run_select_anchors(output.data(), upload.data(), candidates.data(), MAX_BATCH, classes, boxes);
    else
        run_select_boxes(output.data(), upload.data(), candidates.data(), MAX_BATCH, boxes);
    run_suppress(output.data(), upload.data(), candidates.data(), answers.data(), MAX_BATCH,
                 anchors ? classes : 0, boxes, 6);
    std::printf("%d boxes: %d candidates, %d kept\n", boxes, answers[0].candidates, answers[0].kept);
}

int main()
{
    const int sizes[][2] = {{2, 1}, {1, 1}, {64, 32}, {37, 53}, {38, 3}, {128, 64}, {6, 300}};
    for (auto &size : sizes)
        for (int format = BGR; format <= YUYV; format++)
            if (format < UYVY || size[0] % 2 == 0)
                check_letterbox(size[0], size[1], format, size[1] % 4);
    for (int boxes : {1, 70, 300, MAX_CANDIDATES + 300})
        for (bool anchors : {true, false})
            check_decode(boxes, anchors);
}
