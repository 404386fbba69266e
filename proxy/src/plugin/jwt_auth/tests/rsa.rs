//! Made by OpenSSL: `{"alg":ALG}` and `{"key":"rsa","exp":1893456000}`, signed with a key of 2048 bits that
//! was thrown away.

pub(in crate::plugin::jwt_auth) const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEApD6HU3LgOlhh4+QWphSQ\n\
vIalZMw0flIuj9c3AP2KP1ycv6K3O2cph8+51CpfCgBeeqVhkOujk90/x8sy3A4U\n\
2pOu3SgeUugAtI22Vm780OqQzCnNRUSodP64JCIb3naKGLtzUOrVlWJNf5t8ZevE\n\
/HPHinAGuh/ZmDggjf6l1bTa4Ty4+HFeWv1THl3PARfq6n2TifOGGjeCKuo58viT\n\
KhSFR8nSS0kDjJTGartsCxtLyKKpjwyAu5cpiqisIAmefpmsHhEMrFDcJzF/05KS\n\
5P2V0Of6YA++oPlUC81O4DqhdT6WmIa/s96KWiF9ARcnCnZ5dfPnkyXqZ5Mp1Osd\n\
lwIDAQAB\n\
-----END PUBLIC KEY-----";

pub(in crate::plugin::jwt_auth) const TOKENS: [(&str, &str); 6] = [
    (
        "RS256",
        "eyJhbGciOiJSUzI1NiJ9.eyJrZXkiOiJyc2EiLCJleHAiOjE4OTM0NTYwMDB9.OmJHP_CU1pXBc15IZVmQWxQtRZj-\
         gR_LDTcxTTutCszo_mCZ8ff4hTjGGZPqvbmdJZ1JaSUYQR7vnfSDEUm9bKQf7trTJOEfNmpRR7p3MOJ7-ifUUouuX8\
         nMxD237CWan9oN93m90aluX4Gwd319S2Ej3Atsz8lWM7p1n1VAliJPK2-yGwS3lRh8HEYXh5_yZG4L8m1nZ_7AuHfv\
         Vvnxr5bHKeuB9Y2W7rb8hViAK1w4ftFDA9oacqovytT6vzuJq0mvfKOYeTZeWxrdVjaTWxC-7Xm8umTfAuQCIFsoyW\
         pY-85SgVUT1IQrZu7QjQeQhyrbR15gszTp0g717jHC8g",
    ),
    (
        "RS384",
        "eyJhbGciOiJSUzM4NCJ9.eyJrZXkiOiJyc2EiLCJleHAiOjE4OTM0NTYwMDB9.Zk04pHQ4CcWd9WAbK1ujT_y7vSeH\
         PJGlD0cDG72jd8xTCiszVcGmy2eKMRYoVH2B3WFGHbLKNZc1fy8MBZyAUsNGAzx6Lk98Hnf1MdSUHzBvcfbk6xBybq\
         Ge3nRR5XDsljK26lp-ek3CX2lyom1OLkhCJtzgl-eoJI6b85P1hMkjEuoeJOYIyGdF-7KeSqCJT5pDwf3kyoh6515m\
         siO_9h41DQEsaDjH9kRZzrKEbki4UtvISQVfE-FxRtbT2NVlUFbXFa9MbqcUc8TSthWuFQVdMonCyvJhdsIRt4qt0N\
         P_afPSdjTPuyrLxeS9ADhvp45lPS_rNovIvTGwR3xjyA",
    ),
    (
        "RS512",
        "eyJhbGciOiJSUzUxMiJ9.eyJrZXkiOiJyc2EiLCJleHAiOjE4OTM0NTYwMDB9.kHPsJ5QYxQWaPNCCJztrwfuohIzw\
         _XRjeoqqwq2L0ujHJxdhoiO9iKMwvV7127W5Y1SIP861GY0zs5TrKk2L7H-i_UPXkp58myxshDcbb9mCyY_GIvLgB7\
         mj9mCViGDrL7uvc0dCM6uLx6H3OIiUT0l7U5_64_8wnRODSYZvKHivSyaxWPj7VolFBDUGG4hLSQeaG8ja07cnX__2\
         sb1_qKSxfmF8KbBB8DODKcud0mWiNogBsTRKvnVuGKk6tg8v-HfTQIzXA0UJzksxL2cKKeMH8pUfXMl-Oh5E7TuJKq\
         s-KuPbUyhJNVj4S9nQe9j6HFZO3-tSvjGzZxb0uE5hHQ",
    ),
    (
        "PS256",
        "eyJhbGciOiJQUzI1NiJ9.eyJrZXkiOiJyc2EiLCJleHAiOjE4OTM0NTYwMDB9.LPJb08JQr7CA7EdUiHbf_XhL_Fwb\
         3HHuGU-o9r0XJzVzJS2E3o8JtH2IU_fA_JC6SIA4Pc9V-6euZ0e63RpvDHt5qMdolzC07UMNjHCcXLIVqXsDGLHqG-\
         _ClpFwQPzBdlyF_Ls_QY_impZ81Mz2aduQs8z3j4-tjeyiBVeP2gzSANPMmhFOMqx4PEvEBqmErlOvtzI2Vq2plSgO\
         QNEl-pGVHh_0zo9cDJCmcjh9utGAN7Wi3GU8DJmzcyOwwku3NbUo7iPUEmoLMOmeLpn1CQnpIx4PbqRXJLiuMGBycS\
         9VxXNgPA-QH5wuqTjUdjSm3ZeyY5jQSkvSH29a9ePHEg",
    ),
    (
        "PS384",
        "eyJhbGciOiJQUzM4NCJ9.eyJrZXkiOiJyc2EiLCJleHAiOjE4OTM0NTYwMDB9.ljkhM0mHf7cgslsJShfxR-ruNIRh\
         83-C7Yy08GFH9iJ2jH2zG_qdsi6G62CeVZKu2eVPcCHozkS2fm0nQ5hryEd_qRtrRgzkgd8NUjOkIvDVcgnrKyNaNE\
         ZjL4SJaz3O08x2IlT2dc-qyXPWsWe6hiCatD1wgDazIXbfEc4qpQ4CtPvJnAW1oJ01pf3q6SFT8FvJwpJiTtgaINHl\
         yyF7qYz-aTjMX2uwKDENPorvqAbT98sdAczLGBzc1ZClqG6_1L5bwDiw0Pi3FuiDguc5pMES-FiQoG090xc_paCmOJ\
         GAubxeA_5bKCF5QA8N_UZd10qlGbgOKFyfM2wsdB-cTw",
    ),
    (
        "PS512",
        "eyJhbGciOiJQUzUxMiJ9.eyJrZXkiOiJyc2EiLCJleHAiOjE4OTM0NTYwMDB9.Nugk31S7LfmMZzCgxT4pUTHBWb1r\
         ePL2DuQmC86rZJiN3mc1-r7sGUegWupAagD9XTpPdonU6q_Y4AHXNfIdV_KUOHQv_R3XSbhPfoRh9xdmUnDHIzEQX-\
         JwKOtD7oNu20WyOOVkDET0yO2XaMvU65z-ZCL-Njh6hja_aqMUofIfrol9b1CJ5SyNuBWCZiba55YIMhXqR-RLgAm-\
         fblBN6TMrT_Dkhw-kD7tua0TVVmBlj0T5HKH1lBQ3KHcD2prKpwqw6wTGvgsOgb-bsTLAYbAoUL6e-473ry_LFP8TY\
         it4oQRKp5RsmQVwROYOYF9FiiDlds38q0dJpGpVNhWJA",
    ),
];
