/* One direction of an antialiased resize: which inputs each output is made of, and with what weights, in doubles. torch
 * and Pillow agree on these; how they round them is the kernels' own. */

#ifndef MMDATA_AXIS_H
#define MMDATA_AXIS_H

#include <stdint.h>

typedef struct {
    int64_t outputs, most; /* taps of an output, at most */
    int64_t *first, *taps; /* [outputs] */
    double *weights;       /* [outputs, most], each output's of sum 1 */
} Axis;

/* `outputs` from the first `extent` of `inputs` pixels. The filter is 0 beyond `reach`, in pixels of whichever are
 * larger. Answers whether there was memory for it; `forget_axis` in either case. */
int plan_axis(Axis *axis, int64_t inputs, double extent, int64_t outputs, double reach, double (*filter)(double));
void forget_axis(Axis *axis);

double bicubic(double x); /* Keys, a = -0.5; reach 2 */

#endif
