// SPDX-License-Identifier: GPL-2.0
/* A program of somebody who has installed libpagemigrate-dev. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <linux/page_migrate.h>

int main(void)
{
	struct page_migrate_info info;
	int fd = open("/dev/page_migrate", O_RDWR);

	if (fd < 0 || ioctl(fd, PAGE_MIGRATE_IOC_INFO, &info)) {
		perror("/dev/page_migrate");
		return 1;
	}
	printf("%u\n", info.max_nodes);
	return 0;
}
