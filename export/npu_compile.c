/* npu_compile.py for machines where only the Windows libraries of OpenVINO run, such as Wine:

       npu_compile GRAPH.xml BLOB PLATFORM

   Exit code 0: BLOB is written. 1: the compiler refused the graph. 3: no compiler here. */

#include <stdio.h>

#include "openvino/c/openvino.h"

static int fail(const char *doing, int code) {
    const char *text = ov_get_last_err_msg();
    fprintf(stderr, "%s: %s\n", doing, text ? text : "no message");
    return code;
}

int main(int count, char **arguments) {
    ov_core_t *core;
    ov_version_t version;
    ov_compiled_model_t *compiled;
    char *value;

    if (count != 4) {
        fprintf(stderr, "usage: npu_compile GRAPH.xml BLOB PLATFORM\n");
        return 2;
    }
    if (ov_core_create(&core)) return fail("loading OpenVINO", 3);
    ov_core_set_property(core, "NPU", "NPU_COMPILER_TYPE", "PLUGIN");
    ov_core_set_property(core, "NPU", "LOG_LEVEL", "LOG_INFO");
    if (ov_core_get_property(core, "NPU", "NPU_COMPILER_VERSION", &value))
        return fail("looking for the compiler", 3);
    if (!ov_get_openvino_version(&version)) printf("OpenVINO %s\n", version.buildNumber);
    if (ov_core_set_property(core, "NPU", "NPU_PLATFORM", arguments[3]))
        return fail("choosing the platform", 1);
    if (ov_core_compile_model_from_file(core, arguments[1], "NPU", 0, &compiled))
        return fail("compiling", 1);
    if (ov_compiled_model_export_model(compiled, arguments[2])) return fail("writing", 1);
    return 0;
}
