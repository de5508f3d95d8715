"""Whether two networks fit together."""

from tf_robust_transfer.errors import InputError


def check_pair(student, teacher):
    """Raises an InputError unless teacher and student read the same images and tell the same
    classes apart.
    """
    shapes = {"teacher": teacher.input_shape[1:], "student": student.input_shape[1:]}
    for role, other in (("teacher", "student"), ("student", "teacher")):
        if None in shapes[role] and None not in shapes[other]:
            raise InputError(
                f"the {role} takes images of any size, the {other} {shapes[other]}; "
                f"write {role} = rt.as_classifier({role}, input_shape={shapes[other]})"
            )
    if teacher.input_shape[1:] != student.input_shape[1:]:
        raise InputError(
            f"the teacher takes images of shape {teacher.input_shape[1:]}, the student "
            f"{student.input_shape[1:]}; put an input transform before the teacher or train a "
            "teacher of that shape"
        )
    if teacher.output_shape[-1] != student.output_shape[-1]:
        raise InputError(
            f"the teacher has {teacher.output_shape[-1]} classes, the student "
            f"{student.output_shape[-1]}; give a teacher of the student's task, or fine-tune a new "
            "logit layer on this one first (method finetune)"
        )
