# shellcheck shell=bash
# SPDX-License-Identifier: GPL-2.0
#
# Functions that the scripts share. Source it; it runs nothing by itself.

# The clone that these scripts belong to, and the cache outside of it.
PM_REPO=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
PM_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/page_migrate

# chroot and mount are not on everybody's path.
PATH=$PATH:/usr/sbin:/sbin

# Change this number when what setup makes of the package list changes.
PM_ROOT_FORMAT=1
# The same for a kernel's folder.
PM_KERNEL_FORMAT=1
# The options of the debug kernel.
PM_DEBUG_CONFIG=$PM_REPO/tests/debug-kernel.config

pm_die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Path of the build root for this version of the package list.
pm_root() {
	local key
	key=$({ echo "$PM_ROOT_FORMAT"; grep -v '^#' "$PM_REPO/scripts/packages"; } |
		sha256sum)
	printf '%s/root-%s\n' "$PM_CACHE" "${key:0:12}"
}

# Path of the folder of kernel $1. It does not depend on the package list: a
# new list leaves a kernel alone as long as the compilers stay the same.
pm_kernel_dir() {
	local key
	key=$(printf '%s' "kernel $PM_KERNEL_FORMAT" | sha256sum)
	printf '%s/kernel-%s-%s\n' "$PM_CACHE" "$1" "${key:0:8}"
}

# Path of the folder of the debug kernel that is made from the source of kernel
# $1. Other options make another one.
pm_debug_dir() {
	local key
	key=$({ echo "debug $PM_KERNEL_FORMAT"; grep '^CONFIG\|^# CONFIG' "$PM_DEBUG_CONFIG"; } |
		sha256sum)
	printf '%s/debug-%s-%s\n' "$PM_CACHE" "$1" "${key:0:8}"
}

# setup writes the stamp last: a folder without it was interrupted.
pm_root_ready() {
	[ -f "$1/.complete" ]
}

# A kernel is of use only to the compilers that prepared it.
pm_kernel_ready() {
	[ -f "$1/.complete" ] && cmp -s "$1/.complete" "$2/.toolchain"
}

# Run "$@" where mounts can be made: as root in a mount namespace of its own,
# as anybody else as root of a user namespace that maps the caller's subuids.
pm_unshare() {
	if [ "$(id -u)" -eq 0 ]; then
		unshare --mount --propagation private -- "$@"
	else
		unshare --user --map-root-user --map-auto \
			--mount --propagation private -- "$@"
	fi
}

# Say early and plainly why pm_unshare would not work here.
pm_check_unshare() {
	pm_unshare true 2>/dev/null && return
	if [ "$(id -u)" -eq 0 ]; then
		pm_die "cannot make a mount namespace: needs CAP_SYS_ADMIN (in a container: run it privileged)"
	fi
	pm_die "cannot make a user namespace: needs util-linux 2.38, the package uidmap, a line for $(id -un) in /etc/subuid and /etc/subgid, and a system that allows it (sysctl kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); or run as root"
}

# A plan is a file with five numbers: steps that have begun, all steps, seconds that
# the steps before this one were to take, seconds of all, and when it began. Who runs
# another script, or a program in the virtual machine, has it go on in the same file:
# PM_PLAN.

# pm_plan FILE STEPS SECONDS: begins one.
pm_plan() {
	export PM_PLAN=$1
	echo "0 $2 0 $3 $(date +%s)" >"$PM_PLAN"
}

# pm_skip STEPS SECONDS: these need not be done after all.
pm_skip() {
	local at
	read -ra at <"$PM_PLAN"
	echo "${at[0]} $((at[1] - $1)) ${at[2]} $((at[3] - $2)) ${at[4]}" >"$PM_PLAN"
}

# pm_begin WHAT SECONDS: begins the next step, and shows on stderr how far it and the
# plan are: every second in one line of a terminal, else in a line every five seconds.
pm_begin() {
	local at
	pm_end
	read -ra at <"$PM_PLAN"
	PM_STEP=$((at[0] + 1))
	PM_WHAT="[$PM_STEP/${at[1]}] $1"
	PM_BEGAN=$SECONDS
	# The step's own seconds are behind it when the next one begins.
	echo "$PM_STEP ${at[1]} $((at[2] + $2)) ${at[3]} ${at[4]}" >"$PM_PLAN"
	pm_tick "$2" "${at[@]:2}" &
	PM_TICKER=$!
}

# pm_end: ends the step, and says how long it took.
pm_end() {
	[ -n "${PM_TICKER:-}" ] || return 0
	kill "$PM_TICKER" 2>/dev/null && pm_took
	wait "$PM_TICKER" 2>/dev/null || true
	PM_TICKER=
}

pm_took() {
	[ ! -t 2 ] || printf '\r\033[K' >&2
	printf '%s: %d s\n' "$PM_WHAT" $((SECONDS - PM_BEGAN)) >&2
}

# pm_tick SECONDS BEFORE TOTAL BEGAN: what pm_begin shows, until the next step begins or
# the script has ended.
pm_tick() {
	local seconds=$1 before=$2 total=$3 real now took part left text
	real=$(($(date +%s) - $4))
	[ -t 2 ] || printf '%s\n' "$PM_WHAT" >&2
	while read -r now _ <"$PM_PLAN" && [ "$now" = "$PM_STEP" ]; do
		kill -0 $$ 2>/dev/null || return
		took=$((SECONDS - PM_BEGAN))
		part=$((took < seconds ? took : seconds))
		left=$((total - before - part))
		# Where the steps before took longer than planned, the others will.
		[ "$before" -lt 20 ] || [ "$real" -le "$before" ] || left=$((left * real / before))
		text="$took s, $(((before + part) * 100 / total)) %, about $(pm_time "$left") left"
		if [ -t 2 ]; then
			printf '\r\033[K%s: %s' "$PM_WHAT" "$text"
		elif [ $((took % 5)) -eq 0 ]; then
			printf '      %s\n' "$text"
		fi >&2
		sleep 1
	done
	pm_took
}

# pm_time SECONDS: for people.
pm_time() {
	if [ "$1" -ge 90 ]; then
		echo "$((($1 + 30) / 60)) min"
	else
		echo "$1 s"
	fi
}

# The commit that is here, with a + where its files have changed; but not for what the
# results of runs are written to.
pm_commit() {
	local commit
	commit=$(git -C "$PM_REPO" rev-parse --short HEAD)
	git -C "$PM_REPO" diff --quiet HEAD -- . ':!docs/results.*' || commit+=+
	echo "$commit"
}

# pm_record SUITE MACHINE KERNEL COMMIT RESULT: into docs/results.md.
pm_record() {
	"$PM_REPO/scripts/in-root" "$PM_REPO/scripts/results" record "$1" "$2" "$3" \
		"$(date +%F)" "$4" "$5"
}

# The folders that belong to the build root itself: nothing of the host may be
# put over them.
pm_is_system_path() {
	case $1 in
	/ | /bin | /bin/* | /boot | /boot/* | /dev | /dev/* | /etc | /etc/* | \
	/lib | /lib/* | /lib64 | /lib64/* | /proc | /proc/* | /run | /run/* | \
	/sbin | /sbin/* | /sys | /sys/* | /usr | /usr/* | \
	/home | /root | /tmp | /var | /opt | /srv | /mnt)
		return 0
		;;
	esac
	return 1
}
