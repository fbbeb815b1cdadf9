/* table.h - the members that every tier fills with its own static function of the same name; included inside the initialiser. */
.gemm_tile = gemm_tile, .pack = pack, .act = act, .act_backward = act_backward, .add = add, .mul = mul, .mul_add = mul_add,
                        .axpy = axpy, .scale = scale, .dot = dot, .sum = sum, .sum_squares = sum_squares, .max = max,
                        .layer_norm = layer_norm, .layer_norm_backward = layer_norm_backward, .add_rows = add_rows,
                        .rms_norm = rms_norm, .rms_norm_backward = rms_norm_backward, .softmax = softmax, .exp_shift = exp_shift,
                        .max_columns = max_columns, .exp_columns = exp_columns, .softmax_backward = softmax_backward,
                        .softmax_slope = softmax_slope, .rotate = rotate, .adamw = adamw, .from_f16 = from_f16,
                        .from_bf16 = from_bf16, .to_f16 = to_f16, .to_bf16 = to_bf16, .from_i8 = from_i8,
                        .few_scores = few_scores, .few_values = few_values,
