/* Where the outputs of an antialiased resize lie, and the weights of the inputs under them. */

#include "axis.h"

#include <math.h>
#include <stdlib.h>

double bicubic(double x) {
    x = fabs(x);
    if (x < 1.0)
        return (1.5 * x - 2.5) * x * x + 1.0;
    return x < 2.0 ? -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0) : 0.0;
}

/* The weights of one output, whose center lies at `center`. */
static void weigh(Axis *axis, int64_t at, int64_t inputs, double center, double support, double inverse,
                  double (*filter)(double)) {
    double *weights = axis->weights + at * axis->most, total = 0.0;
    int64_t first = (int64_t)(center - support + 0.5), end = (int64_t)(center + support + 0.5);
    first = first > 0 ? first : 0;
    end = end < inputs ? end : inputs;
    int64_t taps = end - first;
    taps = taps > axis->most ? axis->most : taps < 0 ? 0 : taps;
    for (int64_t k = 0; k < taps; k++)
        total += weights[k] = filter(((double)(k + first) - center + 0.5) * inverse);
    for (int64_t k = 0; k < taps && total != 0.0; k++)
        weights[k] /= total;
    axis->first[at] = first;
    axis->taps[at] = taps;
}

int plan_axis(Axis *axis, int64_t inputs, double extent, int64_t outputs, double reach, double (*filter)(double)) {
    const double scale = extent / (double)outputs, wider = scale > 1.0 ? scale : 1.0;
    const double support = reach * wider, inverse = 1.0 / wider;
    const int same = inputs == outputs && extent == (double)outputs;
    axis->outputs = outputs;
    axis->most = same ? 1 : (int64_t)ceil(support) * 2 + 1;
    axis->first = malloc(outputs * sizeof *axis->first);
    axis->taps = malloc(outputs * sizeof *axis->taps);
    axis->weights = malloc(outputs * axis->most * sizeof *axis->weights);
    if (!axis->first || !axis->taps || !axis->weights)
        return 0;
    for (int64_t at = 0; at < outputs; at++) {
        if (same) { /* Weight 1: the pass leaves every byte as it is. */
            axis->first[at] = at;
            axis->taps[at] = 1;
            axis->weights[at] = 1.0;
        } else {
            weigh(axis, at, inputs, scale * ((double)at + 0.5), support, inverse, filter);
        }
    }
    return 1;
}

void forget_axis(Axis *axis) {
    free(axis->first);
    free(axis->taps);
    free(axis->weights);
}
