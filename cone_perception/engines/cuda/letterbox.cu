// Camera bytes -> network input: cut, scale, colours and grey rest at once, one thread per pixel.
// The same arithmetic as cv2.cvtColor followed by cv2.resize with INTER_LINEAR: each source pixel is
// converted to 8-bit BGR first, and the blend of four of them is rounded to a grey level.
#include "request.cuh"

enum { PAD_VALUE = 114 };

struct Colour {
    int b, g, r;
};

static __device__ int clamp(int value, int low, int high)
{
    return value < low ? low : value > high ? high : value;
}

// BT.601, limited range, in OpenCV's fixed point of 20 bits.
static __device__ Colour from_yuv(int y, int u, int v)
{
    const int half = 1 << 19;
    y = (y > 16 ? y - 16 : 0) * 1220542;
    u -= 128;
    v -= 128;
    Colour colour;
    colour.b = clamp((y + half + 2116026 * u) >> 20, 0, 255);
    colour.g = clamp((y + half - 852492 * v - 409993 * u) >> 20, 0, 255);
    colour.r = clamp((y + half + 1673527 * v) >> 20, 0, 255);
    return colour;
}

static __device__ Colour read_pixel(const unsigned char *row, int x, int format)
{
    const unsigned char *at;
    Colour colour;
    switch (format) {
    case MONO:
        colour.b = colour.g = colour.r = row[x];
        return colour;
    case UYVY:
        at = row + (x & ~1) * 2;  // u y v y
        return from_yuv(at[1 + (x & 1) * 2], at[0], at[2]);
    case YUYV:
        at = row + (x & ~1) * 2;  // y u y v
        return from_yuv(at[(x & 1) * 2], at[1], at[3]);
    default:
        at = row + x * (format == BGRA || format == RGBA ? 4 : 3);
        const bool red_first = format == RGB || format == RGBA;
        colour.b = at[red_first ? 2 : 0];
        colour.g = at[1];
        colour.r = at[red_first ? 0 : 2];
        return colour;
    }
}

static __device__ int blend(int a, int b, int c, int d, float x, float y)
{
    const float upper = a + (b - a) * x;
    const float lower = c + (d - c) * x;
    return int(upper + (lower - upper) * y + 0.5f);
}

static __device__ bool contains(const Rectangle &rectangle, int x, int y)
{
    return x >= rectangle.left && x < rectangle.right && y >= rectangle.top && y < rectangle.bottom;
}

// Of the pixel x, y of the network's input, which lies in the patch's place.
static __device__ Colour sample(
    const unsigned char *rows, const Picture &picture, const Patch &patch, int x, int y)
{
    const Rectangle &source = patch.source, &place = patch.place;
    const int width = source.right - source.left, height = source.bottom - source.top;
    const float scale_x = (float)width / (place.right - place.left);
    const float scale_y = (float)height / (place.bottom - place.top);
    const float source_x = (x - place.left + 0.5f) * scale_x - 0.5f;
    const float source_y = (y - place.top + 0.5f) * scale_y - 0.5f;
    const int x0 = clamp((int)source_x, 0, width - 1);
    const int y0 = clamp((int)source_y, 0, height - 1);
    const int x1 = clamp(x0 + 1, 0, width - 1);
    const int y1 = clamp(y0 + 1, 0, height - 1);
    // Before the first pixel's middle and behind the last one's there is nothing to blend with.
    const float part_x = source_x > x0 && x1 > x0 ? source_x - x0 : 0.0f;
    const float part_y = source_y > y0 && y1 > y0 ? source_y - y0 : 0.0f;
    const unsigned char *upper = rows + (long long)(source.top + y0) * picture.step;
    const unsigned char *lower = rows + (long long)(source.top + y1) * picture.step;
    const Colour a = read_pixel(upper, source.left + x0, picture.format);
    const Colour b = read_pixel(upper, source.left + x1, picture.format);
    const Colour c = read_pixel(lower, source.left + x0, picture.format);
    const Colour d = read_pixel(lower, source.left + x1, picture.format);
    Colour colour;
    colour.b = blend(a.b, b.b, c.b, d.b, part_x, part_y);
    colour.g = blend(a.g, b.g, c.g, d.g, part_x, part_y);
    colour.r = blend(a.r, b.r, c.r, d.r, part_x, part_y);
    return colour;
}

// network: (batch, 3, height, width), planes in the order red, green, blue when `rgb`, else reversed.
extern "C" __global__ void letterbox(
    const unsigned char *upload, input_t *network, int width, int height, int rgb, float scale)
{
    const Request *request = (const Request *)upload;
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int index = blockIdx.z;
    if (x >= width || y >= height || index >= request->pictures)
        return;
    const Picture &picture = request->picture[index];
    Colour colour = {PAD_VALUE, PAD_VALUE, PAD_VALUE};
    for (const Patch &patch : picture.patches)
        if (contains(patch.place, x, y))
            colour = sample(upload + picture.offset, picture, patch, x, y);
    const long long plane = (long long)width * height;
    input_t *out = network + 3 * plane * index + (long long)y * width + x;
    out[0] = TO_INPUT(scale * (rgb ? colour.r : colour.b));
    out[plane] = TO_INPUT(scale * colour.g);
    out[2 * plane] = TO_INPUT(scale * (rgb ? colour.b : colour.r));
}
