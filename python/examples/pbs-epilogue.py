# SPDX-License-Identifier: MIT OR Apache-2.0
"""A job has ended: the memory of those that go on comes home to the nodes of their CPUs.

A hook of OpenPBS, with the control groups of its cgroup hook in version 2. home.py is in
/usr/local/share/page-migrate. To set it up:

    qmgr -c "create hook home"
    qmgr -c "set hook home event = execjob_epilogue"
    qmgr -c "import hook home application/x-python default pbs-epilogue.py"
"""

import glob
import os
import sys

import pbs

sys.path.insert(0, "/usr/local/share/page-migrate")

# As the cgroup hook's configuration has it: cgroup_prefix, and the jobs below it.
JOBS = "/sys/fs/cgroup/pbs_jobs.service/jobid"

event = pbs.event()
try:
    import home

    for group in glob.glob(f"{JOBS}/*"):
        name = os.path.basename(group)
        if os.path.isdir(group) and name != event.job.id:
            moved, stayed = home.bring_home(group)
            if moved or stayed:
                pbs.logmsg(pbs.LOG_DEBUG, f"job {name}: {moved} pages came home, {stayed} stay")
except Exception as e:
    # The job that has ended must not suffer from it.
    pbs.logmsg(pbs.LOG_WARNING, f"the memory of jobs stays where it is: {e!r}")
event.accept()
